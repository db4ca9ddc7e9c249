// Pages other than the chat: updates of the status strip, menus and dialogs, dropping files.

import { at } from "./base.js";
import { copyText, say } from "./copy.js";

const QUIET_MS = 3000;
const BUSY_MS = 500;

// The strip: the chat page gets it over its socket, others request it. `roost:status` on the body means that it
// changed.
const body = document.body;
let timer;

async function refreshStrip() {
  clearTimeout(timer);
  const strip = document.getElementById("strip");
  try {
    const answer = document.hidden ? null : await fetch(at("/status/strip"), { headers: { "HX-Request": "true" } });
    if (answer?.ok) showStrip(strip, await answer.text());
  } catch { /* the server is away: ask again later */ }
  const isBusy = strip.querySelector(".light-waiting, .light-answering");
  timer = setTimeout(refreshStrip, isBusy ? BUSY_MS : QUIET_MS);
}

function showStrip(strip, html) {
  const fresh = new DOMParser().parseFromString(html, "text/html").querySelector("#strip");
  if (!fresh || fresh.isEqualNode(strip)) return;
  const parts = [...strip.children];
  for (const [index, part] of [...fresh.children].entries()) {
    if (part.isEqualNode(parts[index])) continue;
    parts[index].replaceWith(part);
    window.htmx?.process(part);
  }
  body.dispatchEvent(new CustomEvent("roost:status"));
}

timer = setTimeout(refreshStrip, QUIET_MS / 3);
document.addEventListener("visibilitychange", () => document.hidden || refreshStrip());
body.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.requestConfig?.verb === "post") refreshStrip();
});

// A menu opens below its button, or above if there is no room.
document.addEventListener("toggle", (event) => {
  const menu = event.target;
  if (event.newState !== "open" || !menu.matches?.(".row-menu")) return;
  const button = document.querySelector(`[popovertarget="${CSS.escape(menu.id)}"]`).getBoundingClientRect();
  const { width, height } = menu.getBoundingClientRect();
  const isBelow = button.bottom + height + 12 < window.innerHeight;
  menu.style.top = `${isBelow ? button.bottom + 4 : Math.max(8, button.top - height - 4)}px`;
  menu.style.left = `${Math.max(8, Math.min(button.right - width, window.innerWidth - width - 8))}px`;
  menu.querySelector("a, button")?.focus();
}, true);

// One checkbox for all rows of a list.
document.addEventListener("change", (event) => {
  if (!event.target.matches("[data-tick-all]")) return;
  for (const tick of event.target.form.querySelectorAll("[name=chat]")) tick.checked = event.target.checked;
});

// data-dialog="ID" opens a <dialog>; data-close closes the dialog around it.
document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-dialog]");
  if (opener) {
    event.preventDefault();
    opener.closest("[popover]")?.hidePopover();
    const dialog = document.getElementById(opener.dataset.dialog);
    dialog.showModal();
    dialog.querySelector("[autofocus], input:not([type=hidden]), textarea")?.select?.();
  }
  if (event.target.closest("[data-close]") || event.target.matches("dialog")) event.target.closest("dialog")?.close();
});

// Shows the name of the chosen file.
document.addEventListener("change", (event) => {
  const zone = event.target.type === "file" && event.target.closest(".drop");
  const place = zone && zone.querySelector("[data-file-name]");
  if (!place) return;
  place.dataset.none ??= place.textContent;
  place.textContent = [...event.target.files].map((file) => file.name).join(", ") || place.dataset.none;
  zone.classList.toggle("has-file", event.target.files.length > 0);
});

// A file dropped on .drop is put into its file input.
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    const zone = event.target.closest?.(".drop");
    if (!zone || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    zone.classList.toggle("is-over", name === "dragenter" || name === "dragover");
    const input = zone.querySelector("input[type=file]");
    if (name !== "drop" || !input) return;
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
}

// Copies a command or link on the page.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy-text]");
  if (button && !button.dataset.said) say(button, await copyText(button.dataset.copyText));
});

// The list of jobs updates every second, but not while a button is pressed or a log is open.
document.body.addEventListener("htmx:beforeRequest", (event) => {
  const isAsking = event.target.id === "jobs" && event.detail.requestConfig.verb === "get";
  if (isAsking && event.target.querySelector(":active, details[open]")) event.preventDefault();
});
