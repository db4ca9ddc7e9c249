// The tour of the page, in a few steps next to the elements they explain; it blocks nothing. Offered once in a new
// browser, and in the help on shortcuts.

import { parts } from "./palette.js";
import { remember } from "./shell.js";

let opener = null;
let number = 0;
const tour = () => document.getElementById("tour");
const steps = () => [...tour().querySelectorAll("[data-spot]")];

export function dismissTour() {
  remember("roost_tour", "done");
  document.getElementById("tour-offer")?.remove();
}

export async function startTour(button) {
  await parts();
  const keys = document.getElementById("keys");
  opener = keys.open || !document.contains(button) ? null : button;
  keys.close();
  if (!tour().dataset.isReady) begin();
  if (!tour().open) tour().show();
  show(0);
  dismissTour();
}

function begin() {
  tour().dataset.isReady = "1";
  tour().addEventListener("click", (event) => {
    const step = event.target.closest("[data-tour-step]");
    if (step) show(number + Number(step.dataset.tourStep));
    else if (event.target.closest("[data-tour-end]")) tour().close();
  });
  tour().addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation(); // a chat's own Escape stops the answer
    tour().close();
  });
  tour().addEventListener("close", () => {
    mark("");
    const back = opener?.isConnected ? opener : document.getElementById("prompt");
    (back ?? document.getElementById("main")).focus({ preventScroll: true });
  });
}

function show(wanted) {
  if (wanted >= steps().length) return tour().close();
  number = Math.max(0, wanted);
  for (const [place, step] of steps().entries()) step.hidden = place !== number;
  tour().querySelector("[data-tour-step='-1']").disabled = number === 0;
  mark(steps()[number].dataset.spot);
  steps()[number].querySelector("h2").focus({ preventScroll: true }); // read aloud with the text that follows
}

function mark(selector) {
  for (const spot of document.querySelectorAll(".tour-spot")) spot.classList.remove("tour-spot");
  if (selector) document.querySelector(selector)?.classList.add("tour-spot");
}
