// Where the reader is, kept in the address after "#", so that every view can be linked to and gone back from.

export const FILTERS = ["order", "step", "task", "modality", "label", "fault", "prompt", "gated", "dropped"];

/** The place as an object of strings. */
export const here = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

/** The address of a place that differs from this one by `changes`; null or "" removes. */
export function link(changes) {
  const place = { ...here(), ...changes };
  const kept = Object.entries(place).filter(([, value]) => value != null && value !== "");
  return `#${new URLSearchParams(kept)}`;
}

/** Go there; a step back undoes it unless it `replaces` this place. */
export function go(changes, replaces = false) {
  if (link(changes) === location.hash) return;
  if (replaces) {
    history.replaceState(null, "", link(changes));
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else location.hash = link(changes);
}

/** How a group goes by in the address. */
export const named = (group) => `${group.step}:${group.prompt_id}`;

/** The changes of place that open a group. */
export const opening = (group) => ({ open: named(group), with: null, from: null, to: null });

/** The step and the prompt of a name that `named` made. */
export function parted(name) {
  const cut = name.indexOf(":");
  return { step: Number(name.slice(0, cut)), prompt_id: name.slice(cut + 1) };
}
