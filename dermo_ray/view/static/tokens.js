// A completion token by token, coloured by what the engine or the learner thought of each, or by policy version.

import { fixed, h, percent, signed } from "./dom.js";

export const COLOURINGS = [
  ["none", "nothing"],
  ["engine", "engine's probability"],
  ["learner", "learner's probability"],
  ["gap", "learner against engine"],
  ["version", "policy version"],
];

const SHARES = [0.99, 0.9, 0.7, 0.5, 0.3, 0.1, 0.03];
const GAPS = [0.02, 0.1, 0.3, 1];
const VERSION_COLOURS = 6;

const below = (limits, value) => limits.filter((limit) => value < limit).length;
const above = (limits, value) => limits.filter((limit) => value >= limit).length;

/** The style of one token. `versions` are those of the whole group, in order. */
function shade(kind, tokens, at, versions) {
  if (kind === "engine" || kind === "learner") {
    const values = tokens[kind];
    return values ? `share-${below(SHARES, Math.exp(values[at]))}` : "unknown";
  }
  if (kind === "gap") {
    if (!tokens.learner || !tokens.engine) return "unknown";
    const gap = tokens.learner[at] - tokens.engine[at];
    return `${gap < 0 ? "less" : "more"}-${above(GAPS, Math.abs(gap))}`;
  }
  if (kind === "version" && tokens.versions) return `version-${versions.indexOf(tokens.versions[at]) % VERSION_COLOURS}`;
  return "";
}

/** What the colours mean, as a list. */
export function legend(kind, versions) {
  const entry = (style, text) => h("li", {}, h("span", { class: `sample ${style}` }, "a"), ` ${text}`);
  if (kind === "engine" || kind === "learner") {
    const texts = SHARES.map((share) => `from ${percent(share)}`);
    return [...texts.map((text, level) => entry(`share-${level}`, text)), entry(`share-${SHARES.length}`, "less")];
  }
  if (kind === "gap") {
    const steps = GAPS.map((gap, level) => [level + 1, gap]);
    return [
      ...steps.toReversed().map(([level, gap]) => entry(`less-${level}`, `\u2212${gap}`)),
      entry("less-0", "the same"),
      ...steps.map(([level, gap]) => entry(`more-${level}`, `+${gap} nats or more`)),
    ];
  }
  if (kind === "version") return versions.map((version, at) => entry(`version-${at % VERSION_COLOURS}`, `version ${version}`));
  return [];
}

function described(tokens, at) {
  const parts = [`token ${at + 1} of ${tokens.pieces.length}, \u201c${tokens.pieces[at].replaceAll("\n", "\u21b5")}\u201d`];
  const value = (name) => `${percent(Math.exp(tokens[name][at]))} (${fixed(tokens[name][at])})`;
  if (tokens.engine) parts.push(`engine ${value("engine")}`);
  if (tokens.learner) parts.push(`learner ${value("learner")}, ${signed(tokens.learner[at] - tokens.engine[at])}`);
  if (tokens.versions) parts.push(`version ${tokens.versions[at]}`);
  return parts.join(" \u00b7 ");
}

/** The completion's text, and below it a line that says what the pointer or the arrow keys are at. */
export function tokenText(completion, versions) {
  const tokens = completion.token_level;
  const ended = completion.finish_reason === "length" ? "cut at the limit" : "ended by the policy";
  const summary = `${completion.tokens} tokens \u00b7 mean log-probability ${fixed(completion.logprob)} \u00b7 ${ended}`;
  const line = h("p", { class: "readout", role: "status" }, summary);
  if (!tokens) return [h("p", { class: "text" }, completion.text), line];

  const spans = tokens.pieces.map((piece, at) =>
    h("span", { "data-at": at, class: /^<\|.*\|>$/.test(piece) ? "special" : "" }, piece),
  );
  let current = -1;
  const point = (at) => {
    spans[current]?.classList.remove("current");
    current = at;
    spans[current]?.classList.add("current");
    line.textContent = at < 0 ? summary : described(tokens, at);
  };
  const text = h(
    "p",
    {
      class: "text tokens",
      tabindex: 0,
      role: "group",
      "aria-label": `Completion ${completion.sample}: ${completion.text}`,
      pointerover: (event) => event.target.dataset.at && point(Number(event.target.dataset.at)),
      pointerleave: () => point(-1),
      blur: () => point(-1),
      keydown: (event) => {
        const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!by || event.altKey || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        point(Math.min(spans.length - 1, Math.max(0, current + by)));
      },
    },
    spans,
  );
  text.colour = (kind) =>
    spans.forEach((span, at) => {
      const special = span.classList.contains("special") ? "special " : "";
      span.className = special + shade(kind, tokens, at, versions);
    });
  return [text, line];
}
