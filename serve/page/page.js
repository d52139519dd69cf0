// The page: a form, and the answer as it comes in. Nothing is sent before the form is.

import { Problem, diagnose, models } from "./service.js";
import * as show from "./result.js";

const at = (id) => document.getElementById(id);
const KEY = "dermo-ray-key";
const TYPES = ["image/jpeg", "image/png", "image/webp"];

let chosen = null; // the file
let stopper = null; // aborts the request under way
let written = ""; // of the completion that is shown
let cast = []; // the votes so far

// --- the image -------------------------------------------------------------------------------------------------------

function choose(file) {
  if (!file) return;
  if (!TYPES.includes(file.type)) return complain("This is no JPEG, PNG or WebP image. Choose another file.");
  const preview = at("preview");
  URL.revokeObjectURL(preview.src);
  chosen = file;
  preview.src = URL.createObjectURL(file);
  preview.alt = `Preview of ${file.name}`;
  preview.hidden = false;
  at("drop").classList.add("filled");
  complain("");
  at("file-hint").textContent = `${file.name}, ${size(file.size)}. Choose or drop another to replace it.`;
}

function complain(message) {
  at("file-error").textContent = message;
  at("file").setAttribute("aria-invalid", message ? "true" : "false");
  if (message) at("file").focus();
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

at("file").addEventListener("change", (event) => choose(event.target.files[0]));
at("preview").addEventListener("error", () => {
  if (!chosen) return;
  chosen = null;
  at("preview").hidden = true;
  at("drop").classList.remove("filled");
  at("file-hint").textContent = "JPEG, PNG or WebP. It stays in this browser until you ask.";
  complain("The file is damaged: it can't be shown. Choose another.");
});
document.addEventListener("paste", (event) => choose(event.clipboardData?.files[0]));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // beside the zone as well: a browser would leave the page for the file
    at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") choose(event.dataTransfer?.files[0]);
  });
}

function dataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Problem("refused", "The file can't be read any more. Choose it again."));
    reader.readAsDataURL(file);
  });
}

// --- models and the key ----------------------------------------------------------------------------------------------

const key = () => sessionStorage.getItem(KEY);

async function listModels() {
  const menu = at("model");
  const before = menu.value;
  try {
    const found = await models(key());
    menu.replaceChildren(...found.map((model) => new Option(title(model), model.id)));
    if (found.some((model) => model.id === before)) menu.value = before;
    menu.disabled = false;
    at("key-field").hidden = true;
    clear();
    return true;
  } catch (error) {
    menu.replaceChildren(new Option("not known yet", ""));
    menu.disabled = true;
    fail(error, listModels);
    return false;
  }
}

function title(model) {
  const step = model.root && model.root !== model.id ? model.root.split("@").pop() : null;
  const state = model.state && model.state !== "promoted" ? model.state : null;
  const notes = [step ? `now ${step}` : null, state].filter(Boolean).join(", ");
  return notes ? `${model.id} (${notes})` : model.id;
}

async function useKey() {
  sessionStorage.setItem(KEY, at("key").value.trim());
  if (await listModels()) at("ask").focus();
}

at("use-key").addEventListener("click", useKey);
at("key").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault(); // the form is sent by its own button
  useKey();
});

// --- problems --------------------------------------------------------------------------------------------------------

function clear() {
  at("problem").replaceChildren();
}

function fail(error, again) {
  if (!(error instanceof Problem)) throw error;
  const wait = error.kind === "wait" && error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  const said = error.message.includes("Try again in") ? error.message : error.message + wait;
  const box = show.element("div", { className: "problem" }, show.element("p", {}, said));
  if (error.kind === "key") {
    at("key-field").hidden = false;
    at("key").focus();
  } else if (error.kind !== "refused" && error.kind !== "too_large") {
    const button = show.element("button", { type: "button", className: "quiet" }, "Try again");
    button.addEventListener("click", () => {
      clear();
      again();
    });
    box.append(button);
  }
  at("problem").replaceChildren(box);
}

// --- asking ----------------------------------------------------------------------------------------------------------

function enter(state) {
  const asking = state === "asking";
  at("main").dataset.state = state;
  at("results").setAttribute("aria-busy", asking);
  at("ask").disabled = asking;
  at("stop").hidden = !asking;
  at("progress").hidden = true;
  if (asking) {
    clear();
    at("empty").hidden = true;
    at("parts").hidden = false;
    for (const id of ["votes-card", "origin-card"]) at(id).hidden = true;
    for (const id of ["reasoning", "morphology", "diagnosis"]) at(id).replaceChildren(waiting());
    for (const id of ["votes", "origin"]) at(id).replaceChildren();
  } else {
    for (const line of document.querySelectorAll(".waiting")) line.replaceWith("—");
  }
}

const waiting = () => show.element("span", { className: "waiting" });

async function ask() {
  if (!chosen) return complain("Choose an image first.");
  if (at("model").disabled && !(await listModels())) return;
  stopper = new AbortController();
  written = "";
  cast = [];
  enter("asking");
  at("status").textContent = "The model is looking at the image.";
  if (matchMedia("(max-width: 56rem)").matches) at("results").scrollIntoView();
  at("stop").focus();
  try {
    const request = {
      image: await dataUri(chosen),
      modality: new FormData(at("form")).get("modality"),
      model: at("model").value,
      cct: at("cct").checked,
      view_images: at("cct").checked,
      stream: true,
    };
    for await (const { event, data } of diagnose(request, key(), stopper.signal)) react[event]?.(data);
  } catch (error) {
    enter("failed");
    const nothing = written === "";
    at("parts").hidden = nothing;
    at("empty").hidden = !nothing;
    const stopped = error.name === "AbortError";
    at("status").textContent = stopped ? "Stopped." : "";
    if (!stopped) fail(error, ask);
  }
}

const react = {
  start(data) {
    if (data.planned > 1) {
      Object.assign(at("progress"), { max: data.planned, value: 0, hidden: false });
      at("votes-card").hidden = false;
    }
  },
  delta(data) {
    written += data.text;
    at("reasoning").textContent = show.reasoningIn(written);
  },
  vote(data) {
    cast.push(data);
    at("progress").value = data.done;
    at("status").textContent = `${data.done} of ${data.planned} samples have voted.`;
    const names = [...new Set(cast.map((vote) => vote.view))];
    at("votes").replaceChildren(show.votes(names.map((name) => ({ name })), cast));
  },
  result(result) {
    const hadFocus = document.activeElement === at("stop");
    enter("done");
    at("reasoning").textContent = result.reasoning ?? "The model wrote no reasoning.";
    at("morphology").replaceChildren(show.morphology(result.findings));
    at("diagnosis").replaceChildren(...show.diagnosis(result));
    at("votes-card").hidden = result.cct === null;
    if (result.cct) at("votes").replaceChildren(show.votesSummary(result), show.votes(result.cct.views, result.cct.votes));
    at("origin").replaceChildren(...show.origin(result));
    at("origin-card").hidden = false;
    const named = result.diagnosis === null ? "no diagnosis" : `${result.diagnosis}, ${show.percent(result.confidence)}`;
    at("status").textContent = `Done: ${named}${result.abstain ? "; the model abstains" : ""}.`;
    if (hadFocus) at("results").focus({ preventScroll: true }); // the stop button is gone
  },
};

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (at("main").dataset.state !== "asking") ask();
});
at("stop").addEventListener("click", () => {
  stopper?.abort();
  at("ask").disabled = false;
  at("ask").focus();
});

listModels();
