// The panel with a chat's settings: sliders and numbers are linked, and changes are saved automatically. The server
// renders the panel again when a preset changes, so this script keeps no references to its elements.

import { grow } from "./drafts.js";
import { isOpen, send } from "./live.js";

const form = () => document.getElementById("options");
let timer;
let isUnsaved = false;
let isHeld = false; // a slider is being moved

export function optionFields() {
  return Object.fromEntries(new FormData(form()));
}

// For the server, when the page opens or reconnects.
export function panelFields() {
  const fields = document.body.dataset.chat ? {} : optionFields();
  delete fields.do;
  return { ...fields, panel: form().dataset.fingerprint };
}

const input = (knob) => knob.querySelector(".knob-number, .knob-switch");
const slider = (knob) => knob.querySelector("input[type=range]");
const same = (a, b) => a === b || (a !== "" && b !== "" && Number(a) === Number(b));

function value(knob) {
  const field = input(knob);
  return field.type === "checkbox" ? String(field.checked) : field.value;
}

function paint(knob) {
  const range = slider(knob);
  if (range) {
    const share = (range.value - range.min) / (range.max - range.min);
    range.style.setProperty("--filled", `${100 * share}%`);
  }
  knob.classList.toggle("is-changed", !same(value(knob), knob.dataset.default));
}

function set(knob, wanted) {
  const field = input(knob);
  if (field.type === "checkbox") field.checked = wanted === "true";
  else field.value = wanted;
  if (slider(knob)) slider(knob).value = wanted;
  paint(knob);
}

function paintAll() {
  for (const knob of form().querySelectorAll(".knob")) {
    if (slider(knob)) slider(knob).value = value(knob);
    paint(knob);
  }
  for (const area of form().querySelectorAll("textarea")) grow(area);
}

function save(delay = 300) {
  isUnsaved = true;
  clearTimeout(timer);
  timer = setTimeout(saveOptions, delay);
}

// Saves pending changes immediately: before a message that should use them, or after a reconnect.
export async function saveOptions() {
  clearTimeout(timer);
  if (!isUnsaved || !form().checkValidity() || !isOpen()) return;
  isUnsaved = false;
  if (await send(optionFields())) {
    const saved = document.getElementById("saved");
    if (document.body.dataset.chat) saved.textContent = saved.dataset.text;
  } else isUnsaved = isUnsaved || !isOpen();
}

function typed(event) {
  const knob = event.target.closest(".knob");
  if (knob && event.target.type === "range") set(knob, event.target.value);
  else if (knob) {
    if (slider(knob) && event.target.value !== "") slider(knob).value = event.target.value;
    paint(knob);
  }
  if (event.target.name === "think_mode") {
    event.target.closest(".pill").classList.toggle("is-on", event.target.value !== event.target.dataset.default);
  }
  save(event.target.matches("select") ? 0 : undefined);
}

function reset(event) {
  const knobs = event.target.closest("[data-reset-all]")
    ? [...form().querySelectorAll(".knob")]
    : [event.target.closest("#options [data-reset]")?.closest(".knob")].filter(Boolean);
  for (const knob of knobs) set(knob, knob.dataset.default);
  if (!knobs.length) return;
  if (knobs.length === 1) input(knobs[0]).focus(); // the dot has disappeared
  save();
}

// Replaces the panel: open parts stay open and the focus stays. Not while the user types or drags.
function keepPlace(event) {
  if (event.detail.target.id !== "options") return;
  if (isHeld || isUnsaved) {
    event.detail.shouldSwap = false;
    return;
  }
  const open = [...form().querySelectorAll("details[open]")].map((node) => node.id);
  const focused = form().contains(document.activeElement) && document.activeElement.id;
  const top = form().querySelector(".panel-body").scrollTop;
  setTimeout(() => {
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    form().querySelector(".panel-body").scrollTop = top;
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    paintAll();
  });
}

export function startOptions() {
  paintAll();
  document.addEventListener("input", (event) => event.target.form === form() && typed(event));
  document.addEventListener("click", reset);
  document.addEventListener("pointerdown", (event) => (isHeld = Boolean(event.target.closest("#options [type=range]"))));
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => (isHeld = false));
  document.body.addEventListener("htmx:oobBeforeSwap", keepPlace);
}
