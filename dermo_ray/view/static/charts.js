// Small charts as SVG: lines by step with a cursor, and the spread of rewards.

import { brief, fixed, h, plural, s, spoken } from "./dom.js";

const SERIES_COLOURS = 8;
const Y_TICKS = 4;
const DASHES = ["", "6 2", "2 2", "6 2 2 2"];

/** A round number that goes about `count` times between `low` and `high`. */
function roundStep(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * (1 - 1e-9));
}

/** Round numbers at about `count` places between `low` and `high`. */
function ticks(low, high, count) {
  const step = roundStep(low, high, count);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, at) => +((first + at) * step).toPrecision(12));
}

/** The bounds moved outwards to round numbers; those of a single value are a little apart. */
function rounded(low, high) {
  if (low === high) return rounded(low === 0 ? 0 : low - Math.abs(low) * 0.1, high + (Math.abs(high) * 0.1 || 1));
  const step = roundStep(low, high, Y_TICKS);
  return [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step];
}

function frame(width, height, margin, [x0, x1], [y0, y1]) {
  const x = (value) => margin.left + ((value - x0) / (x1 - x0 || 1)) * (width - margin.left - margin.right);
  const y = (value) => height - margin.bottom - ((value - y0) / (y1 - y0 || 1)) * (height - margin.top - margin.bottom);
  const grid = s("g", { class: "grid", "aria-hidden": "true" });
  for (const value of ticks(y0, y1, Y_TICKS)) {
    grid.append(
      s("line", { x1: margin.left, x2: width - margin.right, y1: y(value), y2: y(value) }),
      s("text", { x: margin.left - 6, y: y(value) + 4, "text-anchor": "end" }, brief(value)),
    );
  }
  for (const value of ticks(x0, x1, Math.min(4, x1 - x0)).filter(Number.isInteger)) {
    grid.append(s("text", { x: x(value), y: height - margin.bottom + 16, "text-anchor": "middle" }, String(value)));
  }
  return { x, y, grid };
}

/** Lines by step: `title`, and `series` of `name`, `steps`, `values`, `last`. The pointer and the arrow keys read them. */
export function lineChart({ title, stride, series }) {
  const [width, height] = [420, 210];
  const margin = { left: 52, right: 10, top: 10, bottom: 26 };
  const all = [...new Set(series.flatMap((entry) => entry.steps))].sort((a, b) => a - b);
  const values = series.flatMap((entry) => entry.values);
  const { x, y, grid } = frame(width, height, margin, [all[0], all.at(-1)], rounded(Math.min(...values), Math.max(...values)));

  const cursor = s("line", { class: "cursor", y1: margin.top, y2: height - margin.bottom, visibility: "hidden" });
  const look = (at) => ({ class: `series series-${(at % SERIES_COLOURS) + 1}`, "stroke-dasharray": DASHES[Math.floor(at / SERIES_COLOURS) % DASHES.length] });
  const lines = series.map((entry, at) =>
    entry.steps.length === 1
      ? s("circle", { ...look(at), cx: x(entry.steps[0]), cy: y(entry.values[0]), r: 3 })
      : s("polyline", { ...look(at), points: entry.steps.map((step, n) => `${x(step).toFixed(1)},${y(entry.values[n]).toFixed(1)}`).join(" ") }),
  );
  const numbers = series.map((entry) => h("span", { class: "number" }, brief(entry.last)));
  const caption = h("p", { class: "readout", role: "status" }, `to step ${all.at(-1)}`);
  let current = -1;
  const point = (at) => {
    current = at;
    const step = at < 0 ? null : all[at];
    cursor.setAttribute("visibility", at < 0 ? "hidden" : "visible");
    if (at >= 0) { cursor.setAttribute("x1", x(step)); cursor.setAttribute("x2", x(step)); }
    caption.textContent = at < 0 ? `to step ${all.at(-1)}` : `at step ${step}`;
    series.forEach((entry, n) => {
      const found = entry.steps.indexOf(step);
      numbers[n].textContent = at < 0 ? brief(entry.last) : found < 0 ? "\u2013" : brief(entry.values[found]);
    });
  };
  const drawing = s(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      tabindex: 0,
      role: "img",
      "aria-label": `${spoken(title)} by step: ${series.map((entry) => `${spoken(entry.name)} ends at ${brief(entry.last)}`).join(", ")}`,
      pointermove: (event) => {
        const box = drawing.getBoundingClientRect();
        const place = ((event.clientX - box.left) / box.width) * width;
        const distances = all.map((step) => Math.abs(x(step) - place));
        point(distances.indexOf(Math.min(...distances)));
      },
      pointerleave: () => point(-1),
      blur: () => point(-1),
      keydown: (event) => {
        const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!by || event.altKey || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        point(current < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, current + by)));
      },
    },
    grid, lines, cursor,
  );
  return h(
    "figure", { class: "card chart" },
    h("figcaption", {}, h("h2", {}, spoken(title)), caption),
    drawing,
    h("ul", { class: "legend" }, series.map((entry, at) =>
      h("li", {}, s("svg", { class: "swatch", viewBox: "0 0 24 8", "aria-hidden": "true" }, s("line", { ...look(at), x1: 0, x2: 24, y1: 4, y2: 4 })),
        ` ${entry.name === title ? "" : spoken(entry.name)} `, numbers[at]))),
    stride > 1 && h("p", { class: "muted" }, `A point is the mean of ${stride} updates.`),
  );
}

/** Mean reward of every step, each a link made by `to`; `current` is marked. */
export function stepChart(steps, current, to) {
  const [width, height] = [420, 120];
  const margin = { left: 40, right: 8, top: 8, bottom: 24 };
  const bounds = [steps[0].step, Math.max(steps.at(-1).step, steps[0].step + 1)];
  const rewards = steps.map((entry) => entry.reward);
  const { x, y, grid } = frame(width, height, margin, bounds, rounded(Math.min(...rewards), Math.max(...rewards)));
  const half = (width - margin.left - margin.right) / Math.max(1, steps.length) / 2;
  const points = steps.map((entry) => `${x(entry.step).toFixed(1)},${y(entry.reward).toFixed(1)}`).join(" ");
  return s(
    "svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `Mean reward from step ${bounds[0]} to ${steps.at(-1).step}; choose a step below` },
    grid,
    s("polyline", { class: "series series-1", points }),
    steps.map((entry) =>
      s("a", { href: to(entry.step === current ? null : entry.step), tabindex: -1, class: entry.step === current ? "chosen" : false },
        s("rect", { class: "hit", x: x(entry.step) - half, width: 2 * half, y: margin.top, height: height - margin.top - margin.bottom }),
        s("circle", { cx: x(entry.step), cy: y(entry.reward), r: entry.step === current ? 5 : steps.length > 60 ? 0 : 3 }),
        s("title", {}, `step ${entry.step}: mean reward ${fixed(entry.reward)}, ${plural(entry.groups, "group")}`))),
  );
}

/** A prompt's rewards each time it was sampled: lowest to highest, and the mean; each a link made by `to`. */
export function historyChart(entries, current, to) {
  const [width, height] = [560, 150];
  const margin = { left: 40, right: 12, top: 10, bottom: 26 };
  const bounds = [entries[0].step, Math.max(entries.at(-1).step, entries[0].step + 1)];
  const { x, y, grid } = frame(width, height, margin, bounds, [0, 1]);
  return s(
    "svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Rewards of this prompt by step" },
    grid,
    s("polyline", { class: "series series-1 thin", points: entries.map((entry) => `${x(entry.step).toFixed(1)},${y(entry.reward).toFixed(1)}`).join(" ") }),
    entries.map((entry) =>
      s("a", { href: to(entry.step), class: entry.step === current ? "chosen" : false, "aria-label": `step ${entry.step}, mean reward ${fixed(entry.reward)}` },
        s("line", { class: "span", x1: x(entry.step), x2: x(entry.step), y1: y(entry.lowest), y2: y(entry.highest) }),
        s("circle", { cx: x(entry.step), cy: y(entry.reward), r: entry.step === current ? 6 : 4 }),
        s("title", {}, `step ${entry.step}: ${fixed(entry.lowest)} to ${fixed(entry.highest)}, mean ${fixed(entry.reward)}`))),
  );
}

/** Where between 0 and 1 the rewards of a group lie: lowest to highest, and the mean. */
export function spreadBar({ lowest, reward, highest }) {
  const at = (value) => (100 * Math.min(1, Math.max(0, value))).toFixed(1);
  return s(
    "svg", { class: "spread", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "track", x: 0, y: 3, width: 100, height: 4 }),
    s("rect", { class: "range", x: at(lowest), y: 3, width: Math.max(0.8, at(highest) - at(lowest)), height: 4 }),
    s("rect", { class: "mean", x: Math.min(98.4, Math.max(0, at(reward) - 0.8)), y: 0, width: 1.6, height: 10 }),
  );
}
