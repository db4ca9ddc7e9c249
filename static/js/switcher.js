// The switcher of presets and models in a chat's header, loaded when opened. Without scripts it is a page.

import { at } from "./base.js";

const menu = document.getElementById("switcher");
const words = document.getElementById("switch-words");
const items = () => [...menu.querySelectorAll(".menu-item")];
const shown = () => items().filter((item) => !item.hidden && !item.disabled);
const address = () => at(`/chat/switch?chat=${encodeURIComponent(document.body.dataset.chat)}&preset=${encodeURIComponent(document.getElementById("preset").value)}`);
const refresh = () => htmx.ajax("GET", address(), { target: "#switch", swap: "outerHTML" });
let opener = null;
let isClosing = false; // the click that closes it is on its own button

function filter() {
  const wanted = words.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  for (const item of items()) {
    const text = item.textContent.toLocaleLowerCase();
    item.hidden = !wanted.every((word) => text.includes(word));
  }
  document.getElementById("switch-none").hidden = items().some((item) => !item.hidden);
}

export async function openSwitcher(button) {
  if (isClosing) return;
  opener = button;
  words.value = "";
  await refresh();
  menu.showPopover();
  const spot = button.getBoundingClientRect();
  menu.style.top = `${spot.bottom + 4}px`;
  menu.style.left = `${Math.max(8, Math.min(spot.left, innerWidth - menu.offsetWidth - 8))}px`;
  if (matchMedia("(hover: hover)").matches) words.focus(); // no on-screen keyboard over the list
  else menu.querySelector("[aria-current]")?.focus();
}

// Uses the panel's choice of a preset, so that it is stored and shown as if chosen there.
function choosePreset(id) {
  const preset = document.getElementById("preset");
  preset.value = id;
  preset.dispatchEvent(new Event("input", { bubbles: true }));
}

document.addEventListener("pointerdown", (event) => {
  isClosing = menu.matches(":popover-open") && Boolean(event.target.closest("[data-switch]"));
}, true);
words.addEventListener("input", filter);
words.addEventListener("keydown", (event) => {
  if (event.isComposing || event.keyCode === 229 || event.key !== "Enter") return;
  event.preventDefault();
  shown()[0]?.click();
});
menu.addEventListener("submit", (event) => {
  if (event.submitter?.name !== "preset") return;
  event.preventDefault();
  choosePreset(event.submitter.value);
  menu.hidePopover();
});
menu.addEventListener("htmx:afterRequest", (event) => event.detail.requestConfig.verb === "post" && refresh());
menu.addEventListener("htmx:afterSettle", filter);
menu.addEventListener("toggle", (event) => {
  opener?.setAttribute("aria-expanded", String(event.newState === "open"));
  if (event.newState === "closed") document.getElementById("switch").replaceWith(Object.assign(document.createElement("div"), { id: "switch" }));
});
