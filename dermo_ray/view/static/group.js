// One group: the image and its reference, the completions side by side, what each states, and the prompt over time.

import { historyChart } from "./charts.js";
import { ask, byId, fixed, h, percent, plural, signed, spoken } from "./dom.js";
import { go, here, link, opening, parted } from "./place.js";
import { COLOURINGS, legend, tokenText } from "./tokens.js";

let shown = null;
let group = null;
let versions = [];
let pending = null;

/** Show the group that the place names, or nothing. */
export async function showGroup() {
  const { open } = here();
  if (open !== shown) {
    shown = open;
    pending?.abort();
    pending = new AbortController();
    const { signal } = pending;
    if (!open) {
      group = null;
      byId("group").replaceChildren(h("p", { class: "empty" }, "Choose a group to see its completions."));
      return;
    }
    const { step, prompt_id } = parted(open);
    try {
      const answer = await ask("/api/group", { step, prompt: prompt_id }, signal);
      if (signal.aborted) return;
      group = answer;
    } catch (error) {
      if (signal.aborted) return;
      shown = null;
      throw error;
    }
    draw();
  }
  if (group) {
    recolour();
    await compare();
  }
}

const colouring = () => here().colour ?? "engine";
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function draw() {
  const { truth, completions } = group;
  versions = [...new Set(completions.flatMap((entry) => entry.token_level?.versions ?? [entry.version]))].sort((a, b) => a - b);
  const at = group.history.findIndex((entry) => entry.step === group.step);
  const before = group.history[at - 1];
  const after = group.history[at + 1];
  const beside = (entry, text) =>
    entry ? h("a", { href: link(opening({ ...group, step: entry.step })) }, text(entry.step)) : null;
  const rewards = completions.map((entry) => entry.reward);
  byId("group").replaceChildren(
    h("header", {},
      h("a", { class: "back", href: link({ open: null, with: null }) }, "\u2190 all groups"),
      h("a", { class: "lesion", href: `/image/${encodeURI(group.image)}?side=960`, target: "_blank", title: "Open the image" },
        h("img", { src: `/image/${encodeURI(group.image)}?side=960`, alt: `${truth.modality} image, reference: ${truth.final_label ?? "none"}` })),
      h("div", {},
        h("h2", {}, truth.final_label ?? "No reference label"),
        h("p", { class: "muted" }, [...truth.taxon_path, `${truth.modality}, ${truth.task}`].join(" \u203a ")),
        h("p", {}, `Step ${group.step}, prompt `, h("code", {}, group.prompt_id), `: ${plural(completions.length, "completion")} by policy version ${versions.join(", ")}; reward ${fixed(Math.min(...rewards))} to ${fixed(Math.max(...rewards))}, mean ${fixed(mean(rewards))}.`),
        h("p", { class: "neighbours" }, beside(before, (step) => `\u2190 the same prompt at step ${step}`), beside(after, (step) => `the same prompt at step ${step} \u2192`)))),
    colours(),
    h("div", { class: "side-by-side" }, completions.map((entry, place) => card(entry, place, rewards))),
    checklist(),
    overTime(),
  );
  byId("group").scrollTop = 0;
  if (matchMedia("(max-width: 62rem)").matches) scrollTo(0, 0);
}

function colours() {
  if (!group.completions.some((entry) => entry.token_level)) {
    return h("p", { class: "muted colours" }, "This run recorded no tokens: completions are shown without log-probabilities and versions of tokens.");
  }
  const choices = COLOURINGS.map(([kind, text]) =>
    h("label", {}, h("input", { type: "radio", name: "colour", value: kind, change: () => go({ colour: kind }, true) }), ` ${text}`));
  return h("fieldset", { class: "colours" }, h("legend", {}, "Colour tokens by"), choices, h("ul", { id: "legend", class: "legend" }));
}

function recolour() {
  const kind = colouring();
  for (const choice of byId("group").querySelectorAll("input[name=colour]")) choice.checked = choice.value === kind;
  byId("legend")?.replaceChildren(...legend(kind, versions));
  for (const text of byId("group").querySelectorAll(".tokens")) text.colour(kind);
}

/** The next way to colour tokens. */
export function nextColouring() {
  const kinds = COLOURINGS.map(([kind]) => kind);
  if (group) go({ colour: kinds[(kinds.indexOf(colouring()) + 1) % kinds.length] }, true);
}

function card(entry, place, rewards) {
  const best = entry.reward === Math.max(...rewards), worst = entry.reward === Math.min(...rewards);
  return h(
    "section", { class: "card completion", "aria-label": `Completion ${place}` },
    h("header", {},
      h("h3", {}, `#${place}`),
      best !== worst && h("span", { class: `badge ${best ? "good" : "bad"}` }, best ? "best" : "worst"),
      h("span", { class: "reward number" }, fixed(entry.reward)),
      h("span", { class: "muted" }, entry.advantage == null ? "left out of the update" : `advantage ${signed(entry.advantage)}`)),
    tokenText(entry, versions),
    h("table", { class: "terms" },
      h("thead", {}, h("tr", {}, ["term", "value", "weight", "gate", "adds"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, entry.terms.map((term) =>
        h("tr", { title: term.meaning },
          h("th", { scope: "row" }, term.name),
          h("td", {}, fixed(term.value, 2)),
          h("td", {}, `\u00d7 ${fixed(term.weight, 2)}`),
          h("td", { class: term.gated && entry.gate < 1 ? "closed" : "" }, term.gated ? `\u00d7 ${fixed(entry.gate, 2)}` : ""),
          h("td", {}, fixed(term.adds)))))),
    entry.gate_reason && h("p", { class: "reason" }, h("strong", {}, "Gate: "), entry.gate_reason),
    entry.faults.length > 0 && h("ul", { class: "faults" }, entry.faults.map((fault) =>
      h("li", {}, h("span", { class: "badge bad" }, spoken(fault.name), fault.count > 1 && ` \u00d7 ${fault.count}`), ` ${fault.reason ?? ""}`,
        fault.cost != null && h("span", { class: "muted" }, ` Costs ${fixed(fault.cost * fault.count, 2)} of the format term.`)))),
  );
}

function checklist() {
  const mark = ({ text, right }) =>
    h("td", { class: right === null ? "" : right ? "right" : "wrong" },
      right !== null && h("span", { class: "mark", "aria-label": right ? "right" : "wrong" }, right ? "\u2713" : "\u2717"), ` ${text}`);
  if (!group.findings.length) return null;
  return h("section", {},
    h("h3", {}, "What each states"),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "What each completion states" },
      h("table", { class: "findings" },
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "finding"), h("th", { scope: "col" }, "reference"), group.completions.map((_, place) => h("th", { scope: "col" }, `#${place}`)))),
        h("tbody", {}, group.findings.map((finding) =>
          h("tr", {}, h("th", { scope: "row" }, finding.name), h("td", { class: "reference" }, finding.reference), finding.answers.map(mark)))))));
}

function overTime() {
  const others = group.history.filter((entry) => entry.step !== group.step);
  if (!others.length) return h("section", {}, h("h3", {}, "Over time"), h("p", { class: "muted" }, "This prompt was sampled at this step alone."));
  return h("section", { id: "over-time" },
    h("h3", { id: "compare", tabindex: -1 }, "The same prompt over time"),
    h("div", { class: "history" }, historyChart(group.history, group.step, (step) => link(opening({ ...group, step })))),
    h("div", { id: "comparison" }));
}

/** The completion nearest the mean reward. */
function typical(completions) {
  const middle = mean(completions.map((entry) => entry.reward));
  const distances = completions.map((entry) => Math.abs(entry.reward - middle));
  return distances.indexOf(Math.min(...distances));
}

let compared = null;
let comparing = null;

/** Show what changed between a completion of another step and one of this. */
async function compare() {
  const target = byId("comparison");
  if (!target) return;
  const place = here();
  const at = group.history.findIndex((entry) => entry.step === group.step);
  const other = place.with ? Number(place.with) : (group.history[at - 1] ?? group.history[at + 1]).step;
  const wanted = JSON.stringify([shown, other, place.from, place.to]);
  if (wanted === compared && target.childElementCount) return;
  compared = wanted;
  comparing?.abort();
  comparing = new AbortController();
  const { signal } = comparing;
  target.setAttribute("aria-busy", "true");
  try {
    const theirs = await ask("/api/group", { step: other, prompt: group.prompt_id }, signal);
    const from = Math.min(Number(place.from ?? typical(theirs.completions)), theirs.completions.length - 1);
    const to = Math.min(Number(place.to ?? typical(group.completions)), group.completions.length - 1);
    const { runs } = await ask("/api/differences", { prompt: group.prompt_id, step: group.step, sample: to, other_step: other, other_sample: from }, signal);
    target.replaceChildren(...comparison(other, theirs.completions, from, to, runs));
    target.removeAttribute("aria-busy");
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

function comparison(other, theirs, from, to, runs) {
  const select = (name, label, value, entries) =>
    h("label", {}, `${label} `, h("select", { change: (event) => go({ [name]: event.target.value, ...(name === "with" ? { from: null } : {}) }, true) },
      entries.map(([key, text]) => h("option", { value: key, selected: String(key) === String(value) }, text))));
  const samples = (completions) => completions.map((entry, place) => [place, `#${place} (${fixed(entry.reward)})`]);
  const [old, now] = [theirs[from], group.completions[to]];
  const names = [...new Set([...old.terms, ...now.terms].map((term) => term.name))];
  const value = (completion, name) => completion.terms.find((term) => term.name === name)?.value;
  const cell = (number) => h("td", {}, number == null ? "" : fixed(number, 2));
  const change = (before, after, digits) =>
    h("td", { class: before == null || after == null || before === after ? "" : after > before ? "up" : "down" }, before == null || after == null ? "" : signed(after - before, digits));
  return [
    h("div", { class: "choose" },
      select("with", "From step", other, group.history.filter((entry) => entry.step !== group.step).map((entry) => [entry.step, `${entry.step} (mean ${fixed(entry.reward)})`])),
      select("from", "completion", from, samples(theirs)),
      select("to", `to step ${group.step}, completion`, to, samples(group.completions))),
    h("p", { class: "text difference" }, runs.map(([kind, text]) => (kind === "same" ? text : h(kind === "added" ? "ins" : "del", {}, text)))),
    h("table", { class: "terms" },
      h("thead", {}, h("tr", {}, ["term", `step ${other}`, `step ${group.step}`, "change"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {},
        names.map((name) => h("tr", {}, h("th", { scope: "row" }, name), cell(value(old, name)), cell(value(now, name)), change(value(old, name), value(now, name), 2))),
        h("tr", { class: "total" }, h("th", { scope: "row" }, "reward"), h("td", {}, fixed(old.reward)), h("td", {}, fixed(now.reward)), change(old.reward, now.reward, 3)))),
  ];
}

/** Open the same prompt the time before (-1) or after (1). */
export function neighbour(by) {
  if (!group) return;
  const entry = group.history[group.history.findIndex(({ step }) => step === group.step) + by];
  if (entry) go(opening({ ...group, step: entry.step }));
}
