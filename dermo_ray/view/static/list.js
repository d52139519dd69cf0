// The groups to choose from: the steps of the run, the filters, and the list that they leave.

import { stepChart, spreadBar } from "./charts.js";
import { ask, byId, fixed, h, percent, plural, signed, spoken } from "./dom.js";
import { FILTERS, go, here, link, named, opening, parted } from "./place.js";

const PAGE = 50;

let shown = null;
let loaded = [];
let total = 0;
let pending = null;

/** The groups that are listed, in their order. */
export const listed = () => loaded;

/** Fill the steps and the choices of the filters from what `/api/run` said. */
export function showRun(run) {
  drawSteps(run.steps);
  const place = here();
  const options = (name, any, entries) => {
    const kept = entries.some(([value]) => value === place[name]) || !place[name] ? [] : [[place[name], place[name]]];
    byId("filters").elements[name].replaceChildren(
      h("option", { value: "" }, any), ...[...entries, ...kept].map(([value, text]) => h("option", { value }, text)));
  };
  const counted = (entries) => entries.map(({ value, groups }) => [value, `${spoken(value)} (${groups})`]);
  options("step", "every step", run.steps.toReversed().map(({ step, reward }) => [String(step), `${step} (reward ${fixed(reward)})`]));
  for (const name of ["fault", "label", "modality", "task"]) options(name, "any", counted(run.choices[name]));
  fillForm();
}

let steps = [];
function drawSteps(entries = steps) {
  steps = entries;
  const current = here().step ? Number(here().step) : null;
  const means = steps.at(-1);
  byId("steps").replaceChildren(...(steps.length ? [
    h("figcaption", {}, "Mean reward by step", means && h("span", { class: "muted" }, ` \u00b7 last ${fixed(means.reward)}, ${percent(means.gated)} gated, ${percent(means.faulty)} faulty`)),
    stepChart(steps, current, (step) => link({ step, open: null })),
  ] : []));
}

function fillForm() {
  const place = here();
  const fields = byId("filters").elements;
  if (["prompt", "label", "modality", "task"].some((name) => place[name])) byId("further").open = true;
  for (const name of FILTERS) {
    if (fields[name].type === "checkbox") fields[name].checked = Boolean(place[name]);
    else if (document.activeElement !== fields[name]) fields[name].value = place[name] ?? (name === "order" ? "newest" : "");
  }
}

/** Show the search for a prompt and put the focus there. */
export function search() {
  byId("further").open = true;
  byId("filters").elements.prompt.focus();
}

const parameters = (place) => Object.fromEntries(FILTERS.map((name) => [name, place[name]]));

/** List what the place asks for; nothing is asked again where the filters are as before, unless `afresh`. */
export async function showList(afresh = false) {
  const place = here();
  const wanted = JSON.stringify(parameters(place));
  fillForm();
  if (!afresh && wanted === shown) {
    mark();
    return;
  }
  shown = wanted;
  drawSteps();
  loaded = [];
  await load(true);
}

async function load(first) {
  pending?.abort();
  pending = new AbortController();
  const { signal } = pending;
  byId("groups").setAttribute("aria-busy", "true");
  let answer;
  try {
    answer = await ask("/api/groups", { ...parameters(here()), limit: PAGE, offset: loaded.length }, signal);
  } catch (error) {
    if (signal.aborted) return;
    throw error;
  }
  total = first ? answer.total : total;
  loaded.push(...answer.groups);
  const rows = answer.groups.map(row);
  if (first) byId("groups").replaceChildren(...rows);
  else byId("groups").append(...rows);
  byId("count").textContent = total ? plural(total, "group") : "No group is like that.";
  byId("more").hidden = loaded.length >= total;
  mark();
  byId("groups").removeAttribute("aria-busy");
}

/** The end of a long id: ids begin alike. */
const ending = (id) => (id.length > 20 ? `\u2026${id.slice(-18)}` : id);

function row(group) {
  const name = group.label ?? "no reference label";
  const badges = [
    group.gated > 0 && h("span", { class: "badge" }, `gated ${percent(group.gated)}`),
    group.faulty > 0 && h("span", { class: "badge bad" }, `faults ${percent(group.faulty)}`),
    group.dropped && h("span", { class: "badge" }, "left out"),
  ];
  return h(
    "li", {},
    h("a", { href: link(opening(group)), "data-open": named(group) },
      h("img", { src: `/image/${encodeURI(group.image)}?side=160`, alt: "", width: 48, height: 48, loading: "lazy" }),
      h("span", { class: "about" },
        h("strong", {}, name),
        h("span", { class: "muted", title: group.prompt_id }, `step ${group.step} \u00b7 ${ending(group.prompt_id)}`),
        h("span", { class: "badges" }, badges)),
      h("span", { class: "figures" },
        h("span", { class: "number" }, fixed(group.reward)),
        group.change != null && h("span", { class: `change ${group.change < 0 ? "down" : "up"}` }, signed(group.change)),
        spreadBar(group),
        h("span", { class: "unseen" }, `from ${fixed(group.lowest)} to ${fixed(group.highest)}`))),
  );
}

/** Mark the group that is open, and link every row from the place as it is now. */
function mark() {
  const { open } = here();
  for (const entry of byId("groups").querySelectorAll("a")) {
    entry.href = link(opening(parted(entry.dataset.open)));
    if (entry.dataset.open === open) entry.setAttribute("aria-current", "true");
    else entry.removeAttribute("aria-current");
  }
}

/** Open the group `by` places further down the list. */
export function move(by) {
  if (!loaded.length) return;
  const at = loaded.findIndex((group) => named(group) === here().open);
  const next = loaded[Math.min(loaded.length - 1, Math.max(0, at < 0 ? 0 : at + by))];
  go(opening(next));
  byId("groups").querySelector(`[data-open="${CSS.escape(named(next))}"]`)?.scrollIntoView({ block: "nearest" });
}

/** Let the form change the place; `fail` is told what goes wrong. */
export function listen(fail) {
  const form = byId("filters");
  const changed = () => {
    const values = FILTERS.map((name) => {
      const field = form.elements[name];
      return [name, field.type === "checkbox" ? field.checked && "true" : field.value];
    });
    const changes = Object.fromEntries(values.map(([name, value]) => [name, value || null]));
    if (changes.order === "newest") changes.order = null;
    go(changes, true);
  };
  form.addEventListener("change", changed);
  form.elements.prompt.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    go(Object.fromEntries(FILTERS.map((name) => [name, null])), true);
  });
  byId("more").addEventListener("click", () => load(false).catch(fail));
}
