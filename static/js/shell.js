// For every page: theme, menus, toasts.

import { at } from "./base.js";

const YEAR = 365 * 86400;

export function remember(name, value) {
  document.cookie = `${name}=${value}; path=/; max-age=${YEAR}; samesite=lax`;
}

// The server needs this time zone for "today" and "yesterday".
remember("roost_zone", Intl.DateTimeFormat().resolvedOptions().timeZone);

// Theme, density, what Enter does: data-choose="name=value".
document.addEventListener("click", (event) => {
  const choice = event.target.closest("[data-choose]");
  if (!choice) return;
  const [name, value] = choice.dataset.choose.split("=");
  document.documentElement.dataset[name] = value;
  remember(`roost_${name}`, value);
  for (const other of document.querySelectorAll(`[data-choose^="${name}="]`)) {
    other.setAttribute("aria-checked", String(other.dataset.choose === choice.dataset.choose));
  }
});

// If the keyboard covers the page (iOS) instead of making it smaller, the page ends above it.
const SMALLEST_KEYBOARD = 120;
const seen = window.visualViewport;

function endAboveKeyboard() {
  const covered = seen.scale > 1.01 ? 0 : Math.max(0, innerHeight - seen.height);
  const isKeyboard = covered > SMALLEST_KEYBOARD;
  document.documentElement.style.setProperty("--covered", `${isKeyboard ? covered : 0}px`);
  document.documentElement.toggleAttribute("data-keyboard", isKeyboard);
  if (isKeyboard && seen.offsetTop) scrollTo(0, 0); // it also moved the page up
}
for (const type of ["resize", "scroll"]) seen?.addEventListener(type, endAboveKeyboard);

// The page's address may have changed (a first message creates a chat).
document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-language]");
  if (link) link.pathname = location.pathname;
});

// The strip changes several times a second while a model loads. A button that is replaced while it is pressed is never
// clicked, and a focused one loses the focus, so only differences are replaced.
document.body.addEventListener("htmx:oobBeforeSwap", (event) => {
  const fresh = event.detail.fragment.querySelector("#strip");
  if (event.detail.target.id !== "strip" || !fresh) return;
  event.detail.shouldSwap = false;
  const parts = [...event.detail.target.children];
  [...fresh.children].forEach((part, index) => part.isEqualNode(parts[index]) || parts[index].replaceWith(part));
});

// Menus get the focus when they open, so that arrow keys and screen readers work; the model menu is loaded each time.
for (const name of ["model-menu", "appearance-menu"]) {
  document.getElementById(name).addEventListener("toggle", (event) => {
    if (event.newState !== "open") return;
    event.target.dispatchEvent(new CustomEvent("roost:open"));
    event.target.focus();
  });
}

document.addEventListener("keydown", (event) => {
  const menu = event.target.closest?.(".menu");
  if (!menu || !["ArrowDown", "ArrowUp"].includes(event.key)) return;
  const items = [...menu.querySelectorAll(".menu-item:not(:disabled), .button")];
  const step = event.key === "ArrowDown" ? 1 : -1;
  items[(items.indexOf(document.activeElement) + step + items.length) % items.length]?.focus();
  event.preventDefault();
});

// Ctrl+K: the command palette. ?: the shortcuts.
document.addEventListener("keydown", async (event) => {
  if (event.isComposing || event.keyCode === 229 || event.defaultPrevented) return;
  const isPalette = event.key === "k" && (event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey;
  const isTyping = event.target.closest?.("input:not([type=range], [type=checkbox]), textarea, select");
  if ((event.ctrlKey || event.metaKey) && event.shiftKey && !event.altKey && event.code === "KeyO") {
    event.preventDefault();
    return location.assign(at("/"));
  }
  if (!isPalette && (event.key !== "?" || isTyping || event.ctrlKey || event.metaKey || event.altKey)) return;
  event.preventDefault();
  const palette = await import("./palette.js");
  await (isPalette ? palette.showPalette() : palette.showKeys());
});
document.addEventListener("click", async (event) => {
  if (event.target.closest("[data-show-keys]")) (await import("./palette.js")).showKeys();
  else if (event.target.closest("[data-show-palette]")) (await import("./palette.js")).showPalette();
  else if (event.target.closest("[data-tour-start]")) (await import("./tour.js")).startTour(event.target.closest("button"));
  else if (event.target.closest("[data-tour-skip]")) (await import("./tour.js")).dismissTour();
});

// Toasts disappear automatically, but not while they are hovered or focused.
const TOAST_MS = 10_000;
const toasts = document.getElementById("toasts");

function watchToast(toast) {
  let timer;
  const stay = () => clearTimeout(timer);
  const leave = () => {
    stay();
    timer = setTimeout(() => toast.remove(), TOAST_MS);
  };
  toast.addEventListener("pointerenter", stay);
  toast.addEventListener("focusin", stay);
  toast.addEventListener("pointerleave", leave);
  toast.addEventListener("focusout", leave);
  leave();
}

for (const toast of toasts.children) watchToast(toast);
new MutationObserver((changes) => {
  for (const change of changes) for (const node of change.addedNodes) if (node.nodeType === 1) watchToast(node);
}).observe(toasts, { childList: true });

toasts.addEventListener("click", (event) => {
  if (event.target.closest("[data-dismiss]")) event.target.closest(".toast").remove();
});

// Actions on a slow connection before the scripts were ready are repeated when they are, also for htmx: changed fields
// and opened parts. Sliders follow their numbers.
function isAsSent(field) {
  const sent = field.cloneNode(true);
  const form = document.createElement("form");
  form.append(sent);
  form.reset();
  return sent.value === field.value && (sent.checked === field.checked || (field.type === "radio" && !field.checked));
}

document.addEventListener("DOMContentLoaded", () => {
  for (const field of document.querySelectorAll("input:not([type=range]), select, textarea")) {
    if (isAsSent(field)) continue;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    // the browser sends a change event when a text field is left
    const isTyping = field === document.activeElement && !field.matches("select, [type=checkbox], [type=radio], [type=file]");
    if (!isTyping) field.dispatchEvent(new Event("change", { bubbles: true }));
  }
  for (const part of document.querySelectorAll("details[open], :popover-open")) {
    part.dispatchEvent(new ToggleEvent("toggle", { oldState: "closed", newState: "open" }));
  }
});

// Only if the browser supports it: on this machine or with https. It shows a page while the server is offline, in the
// chosen language and colours: others have another address, from which the browser loads that page again.
const { lang, dataset } = document.documentElement;
if (window.isSecureContext) navigator.serviceWorker?.register(at(`/sw.js?${lang}-${dataset.theme}`)).catch(() => {});
