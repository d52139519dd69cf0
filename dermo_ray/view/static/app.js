// The page: follows the place in the address, listens to keys, and looks now and then whether the run has gone on.

import { lineChart } from "./charts.js";
import { ask, byId, h, plural } from "./dom.js";
import { neighbour, nextColouring, showGroup } from "./group.js";
import { listen, move, search, showList, showRun } from "./list.js";
import { go, here } from "./place.js";

const LOOK_AGAIN = 10_000; // milliseconds

let run = null;

function fail(error) {
  byId("trouble").textContent = error.message;
  byId("trouble").hidden = false;
}

async function show() {
  byId("trouble").hidden = true;
  const place = here();
  const curves = place.view === "curves";
  byId("completions").hidden = curves;
  byId("curves").hidden = !curves;
  byId(curves ? "to-curves" : "to-completions").setAttribute("aria-current", "page");
  byId(curves ? "to-completions" : "to-curves").removeAttribute("aria-current");
  byId("completions").classList.toggle("opened", Boolean(place.open));
  try {
    if (curves) await drawCurves();
    else await Promise.all([showList(), showGroup()]);
  } catch (error) {
    fail(error);
  }
}

let drawn = null;
async function drawCurves() {
  if (drawn === run?.revision) return;
  drawn = run?.revision;
  const charts = await ask("/api/curves");
  byId("curves").replaceChildren(
    ...(charts.length ? charts.map(lineChart) : [h("p", { class: "empty" }, "The run has no metrics yet.")]));
}

function status() {
  const completions = run.steps.reduce((sum, entry) => sum + entry.completions, 0);
  byId("status").textContent = run.steps.length
    ? `${plural(run.steps.length, "step")}, ${plural(completions, "completion")}`
    : "No completions yet.";
}

async function look() {
  const found = await ask("/api/run");
  const first = run === null;
  const news = !first && found.revision !== run.revision;
  run = found;
  status();
  byId("name").textContent = run.name;
  document.title = `${run.name}: rollouts`;
  if (first || news) showRun(run);
  if (news) {
    byId("fresh").hidden = false;
    if (here().view === "curves") await drawCurves();
  }
}

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  "[": () => neighbour(-1),
  "]": () => neighbour(1),
  c: nextColouring,
  d: () => { byId("compare")?.scrollIntoView(); byId("compare")?.focus(); },
  "/": () => { go({ view: null }); search(); },
  1: () => go({ view: null }),
  2: () => go({ view: "curves" }),
  "?": () => byId("keys").showModal(),
};

addEventListener("keydown", (event) => {
  const writes = event.target.closest("input:not([type=checkbox], [type=radio]), select, textarea, dialog");
  if (writes || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});
addEventListener("hashchange", show);
byId("show-keys").addEventListener("click", () => byId("keys").showModal());
byId("fresh").addEventListener("click", () => {
  byId("fresh").hidden = true;
  showList(true).catch(fail);
});

listen(fail);
await Promise.all([look().catch(fail), show()]);
document.body.dataset.ready = "true";
setInterval(() => document.hidden || look().catch(fail), LOOK_AGAIN);
