// Turning a diagnosis into elements. Everything that came from a model is set as text.

const PERCENT = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 0 });

export function percent(share) {
  if (share > 0 && share < 0.005) return "<1%";
  if (share < 1 && share > 0.995) return ">99%";
  return PERCENT.format(share);
}

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const unseen = (text) => element("span", { className: "unseen" }, text);

function bar(share) {
  const fill = element("span", { className: "fill" });
  fill.style.width = `${100 * share}%`;
  const track = element("span", { className: "track" }, fill);
  track.setAttribute("aria-hidden", "true"); // the number beside it says the same
  return track;
}

// What is being written: the reasoning without its tags, as far as it has come.
export function reasoningIn(text) {
  const [, after] = text.split("<reasoning>");
  const written = after === undefined ? text : after.split("</reasoning>")[0];
  return written.replace(/<\/?[a-z_]*$/, "").trimStart(); // a tag may be written half
}

const SAID = { yes: ["✓", "present"], no: ["–", "absent"], unsaid: ["?", "not stated"] };

export function morphology(findings) {
  if (findings.length === 0) return element("p", { className: "muted" }, "The model stated no finding.");
  const items = findings.map((finding) => {
    const said = finding.value === null ? "unsaid" : finding.present ? "yes" : "no";
    const [mark, meaning] = SAID[said];
    const value = finding.value === null ? "not stated" : finding.value;
    const repeats = value === meaning;
    const sign = element("span", { className: "mark" }, mark);
    sign.setAttribute("aria-hidden", "true");
    return element(
      "li",
      { className: said },
      sign,
      element("span", { className: "finding" }, finding.name),
      element("span", { className: "value" }, repeats ? null : unseen(`${meaning}: `), value),
    );
  });
  return element("ul", { className: "checklist" }, ...items);
}

export function diagnosis(result) {
  const parts = [];
  if (result.diagnosis === null) {
    parts.push(element("p", { className: "verdict none" }, "No diagnosis"));
    parts.push(element("p", { className: "muted" }, "The model wrote nothing that can be read as one."));
  } else {
    const path = result.path.length ? result.path.join(" › ") : "not in the tree of diagnoses";
    parts.push(element("p", { className: "path" }, path));
    parts.push(element("p", { className: "verdict" }, result.diagnosis));
  }
  if (result.abstain) {
    parts.push(
      element("p", { className: "abstain" }, "The model abstains: no answer leads clearly enough to be relied on."),
    );
  }
  if (result.diagnosis !== null) parts.push(posterior(result));
  return parts;
}

function posterior(result) {
  const single = [{ label: result.diagnosis, probability: result.confidence }];
  const rows = (result.cct ? result.posterior : single).map(({ label, probability }) => {
    const name = element("th", { scope: "row" }, label);
    const leads = label === result.diagnosis;
    return element(
      "tr",
      { className: leads ? "leads" : "" },
      name,
      element("td", { className: "bar" }, bar(probability)),
      element("td", { className: "number" }, percent(probability)),
    );
  });
  const body = element("tbody", {}, ...rows);
  const caption = result.cct
    ? "Posterior over the answers of all views"
    : "One answer; the probability is that of its own words";
  return element("table", { className: "posterior" }, element("caption", {}, caption), body);
}

// The views of an image in plain words; one that is not listed keeps its name.
const VIEWS = {
  identity: "untouched",
  flip_horizontal: "flipped sideways",
  flip_vertical: "flipped upside down",
  quarter_turn_left: "turned left",
  quarter_turn_right: "turned right",
  half_turn: "turned half round",
  light_crop: "cropped a little",
  large_crop: "cropped a lot",
  colour_constancy: "under neutral light",
  hue_shift: "in a shifted hue",
  even_light: "under even light",
  even_light_flip_horizontal: "under even light, flipped sideways",
  even_light_quarter_turn_left: "under even light, turned left",
  even_light_half_turn: "under even light, turned half round",
};

const words = (name) => VIEWS[name] ?? name.replaceAll("_", " ");

// `views` as in a result, or names alone while votes still come in; votes without a weight are not weighed yet.
export function votes(views, cast) {
  const figures = views.map(({ name, image }) => {
    const shown = image ? element("img", { src: image, alt: `The image, ${words(name)}` }) : null;
    const items = cast
      .filter((vote) => vote.view === name)
      .map((vote) => {
        const weighed = vote.answer === null ? null : (vote.weight ?? null);
        const sure = vote.confidence === null ? null : `${percent(vote.confidence)} sure`;
        const counts = weighed === null ? null : `counts ${percent(weighed)}`;
        return element(
          "li",
          {},
          element("span", { className: vote.answer === null ? "answer none" : "answer" }, vote.answer ?? "no answer"),
          weighed === null ? null : bar(weighed),
          element("span", { className: "muted" }, [counts, sure].filter(Boolean).join(", ")),
        );
      });
    return element(
      "li",
      { className: "view" },
      shown,
      element("div", {}, element("h4", {}, words(name)), element("ul", {}, ...items)),
    );
  });
  return element("ul", { className: "views" }, ...figures);
}

export function votesSummary(result) {
  const { planned, sampled, majority, votes: cast } = result.cct;
  const answered = cast.filter((vote) => vote.answer !== null).length;
  const early = sampled < planned ? ` of ${planned} planned: the rest could change little` : "";
  const plain = majority === null ? "" : ` A plain majority would say ${majority}.`;
  return element("p", { className: "muted" }, `${sampled} samples${early}; ${answered} gave an answer.${plain}`);
}

export function origin(result) {
  const facts = [
    ["Model", result.model],
    ["Policy version", `${result.version} (${result.system_fingerprint})`],
    ["Time", `${result.seconds.toFixed(1)} s`],
    ["Tokens", `${result.usage.prompt_tokens} read, ${result.usage.completion_tokens} written`],
  ];
  if (result.faults.length) facts.push(["Faults of form", result.faults.map(words).join(", ")]);
  const list = facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  const whole = element(
    "details",
    {},
    element("summary", {}, "The whole completion"),
    element("pre", { tabIndex: 0 }, result.text),
  );
  return [element("dl", {}, ...list), whole, element("p", { className: "muted" }, result.notice)];
}
