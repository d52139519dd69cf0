// Elements, numbers and requests. Text goes in as text nodes only, so what a policy wrote is never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (`class`, `href`, ...; functions are listeners, false and null leave one out) and children. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for the elements of a drawing. */
export function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

const minus = (text) => text.replace("-", "\u2212");
export const fixed = (number, digits = 3) => minus(number.toFixed(digits));
export const signed = (number, digits = 3) => (number > 0 ? "+" : "") + fixed(number, digits);
export const percent = (share) => `${Math.round(share * 100)} %`;
/** Four significant digits. */
export const brief = (number) =>
  minus(Math.abs(number) >= 1e4 || (number && Math.abs(number) < 1e-3) ? number.toExponential(2) : String(+number.toPrecision(4)));
export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
/** What a person reads of a name in code. */
export const spoken = (name) => name.replaceAll("_", " ");

/** The JSON at `path`; throws an Error with the server's reason. */
export async function ask(path, parameters = {}, signal = undefined) {
  const given = Object.entries(parameters).filter(([, value]) => value != null && value !== "");
  const query = new URLSearchParams(given).toString();
  const response = await fetch(query ? `${path}?${query}` : path, { signal });
  const answer = await response.json();
  if (!response.ok) throw new Error(typeof answer.detail === "string" ? answer.detail : `${path}: ${response.status}`);
  return answer;
}
