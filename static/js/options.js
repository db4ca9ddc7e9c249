// The panel of a chat's own settings: sliders and numbers move together, what changed is saved by itself.

import { isOpen, send } from "./live.js";

const form = document.getElementById("options");
let timer;
let isUnsaved = false;

export function optionFields() {
  return Object.fromEntries(new FormData(form));
}

function paint(knob) {
  const number = knob.querySelector(".knob-number");
  const range = knob.querySelector("input[type=range]");
  const share = (range.value - range.min) / (range.max - range.min);
  range.style.setProperty("--filled", `${100 * share}%`);
  knob.classList.toggle("is-changed", Number(number.value) !== Number(knob.dataset.default));
}

function set(knob, value) {
  knob.querySelector(".knob-number").value = value;
  knob.querySelector("input[type=range]").value = value;
  paint(knob);
}

function save() {
  isUnsaved = true;
  clearTimeout(timer);
  timer = setTimeout(saveOptions, 300);
}

// What is not saved yet, at once: before a message that should be answered with it, or when the connection is back.
export async function saveOptions() {
  clearTimeout(timer);
  const fields = optionFields();
  if (!isUnsaved || !fields.chat || !form.checkValidity() || !isOpen()) return;
  isUnsaved = false;
  const saved = document.getElementById("saved");
  if (await send(fields)) saved.textContent = saved.dataset.text;
  else isUnsaved = isUnsaved || !isOpen();
}

export function startOptions() {
  for (const knob of form.querySelectorAll(".knob")) paint(knob);
  form.addEventListener("input", (event) => {
    const knob = event.target.closest(".knob");
    if (knob && event.target.value !== "") {
      if (event.target.type === "range") set(knob, event.target.value);
      else {
        knob.querySelector("input[type=range]").value = event.target.value;
        paint(knob);
      }
    }
  });
  document.addEventListener("input", (event) => {
    if (event.target.form !== form) return;
    if (event.target.name === "think_mode") {
      event.target.closest(".pill").classList.toggle("is-on", event.target.value !== event.target.dataset.default);
    }
    save();
  });
  form.addEventListener("click", (event) => {
    const knobs = event.target.closest("[data-reset-all]")
      ? form.querySelectorAll(".knob")
      : event.target.closest("[data-reset]") ? [event.target.closest(".knob")] : [];
    for (const knob of knobs) set(knob, knob.dataset.default);
    if (knobs.length) save();
  });
}
