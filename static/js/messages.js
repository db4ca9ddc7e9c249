// The reading column: streamed text, the end of an answer, editing a message.

import { equip, startBlocks } from "./blocks.js";
import { sourceOf } from "./copy.js";
import { draft, forget, grow, isComposing, isSendKey, keep } from "./drafts.js";
import { on } from "./live.js";

const list = document.getElementById("messages");

export const find = (id) => document.getElementById(`m-${id}`);

// The page's content, so that the server sends only differences.
export function shownMessages() {
  return [...list.querySelectorAll(".message")].map((node) => [node.dataset.message, node.dataset.fingerprint]);
}

// CSS creates their label; screen readers need a separate name.
function nameButtons(root) {
  for (const button of root.querySelectorAll(":is(.code-copy, .code-preview):not([aria-label])")) {
    const isCopy = button.matches(".code-copy");
    button.setAttribute("aria-label", isCopy ? document.body.dataset.tCopy : document.body.dataset.tPreview);
    if (!isCopy) button.setAttribute("aria-expanded", "false");
  }
  equip(root);
}

function markLast() {
  nameButtons(list);
  const nodes = list.querySelectorAll(".message");
  nodes.forEach((node, index) => node.classList.toggle("is-last", index >= nodes.length - 1));
  keepFocus(nodes);
  if (nodes.length) document.getElementById("welcome").hidden = true;
}

// A message that is rendered again while its button is pressed would lose the focus.
let pressed = null;

function keepFocus(nodes) {
  if (!pressed || document.activeElement !== document.body) return;
  const versions = pressed.isVersion && nodes[pressed.index]?.querySelector("[data-versions] button:not(:disabled)");
  if (versions) versions.focus({ preventScroll: true });
  else if (matchMedia("(hover: hover)").matches) document.getElementById("prompt").focus({ preventScroll: true });
  pressed = null;
}

function showText(frame) {
  const final = find(frame.message)?.querySelector(`[data-channel=${frame.channel}]`);
  if (!final) return;
  if (frame.reset) final.innerHTML = frame.final;
  else if (frame.final) final.insertAdjacentHTML("beforeend", frame.final);
  final.nextElementSibling.innerHTML = frame.tail;
  nameButtons(final.closest(".message"));
}

function showProgress(frame) {
  const node = find(frame.message);
  if (!node) return;
  node.classList.toggle("is-thinking", frame.thinking);
  const thoughts = node.querySelector(".thinking");
  if (thoughts.querySelector(".prose").textContent.trim()) thoughts.hidden = false;
  const waiting = node.querySelector(".waiting");
  const hasText = !thoughts.hidden || node.querySelector("[data-channel=content]").parentElement.textContent.trim();
  waiting.textContent = frame.waiting || (hasText ? "" : waiting.textContent);
}

function finish(frame) {
  const node = find(frame.message);
  if (!node) return;
  node.classList.remove("is-streaming", "is-thinking");
  node.removeAttribute("aria-busy");
  node.querySelector(".waiting").textContent = "";
  if (frame.fingerprint) node.closest(".message").dataset.fingerprint = frame.fingerprint;
  if (frame.announce) document.getElementById("announcer").textContent = frame.announce;
}

// Editing: the bubble, or the text of an answer, becomes a form; its text survives Esc and a reload.
function edit(message) {
  if (message.querySelector(".edit")) return;
  const id = message.dataset.message;
  const bubble = message.querySelector(":scope > :is(.bubble, .prose)");
  const form = document.getElementById("edit-template").content.firstElementChild.cloneNode(true);
  const area = form.elements.text;
  const button = form.querySelector("button[name=do]");
  button.value = `edit:${id}`;
  if (message.matches(".answer")) button.textContent = button.dataset.save;
  area.value = draft(`edit.${id}`) || sourceOf(message);
  keep(area, `edit.${id}`);
  bubble.hidden = true;
  bubble.after(form);
  grow(area);
  area.focus();
  const close = () => {
    form.remove();
    bubble.hidden = false;
    message.querySelector("[data-edit]").focus();
  };
  form.querySelector("[data-edit-cancel]").addEventListener("click", () => {
    forget(`edit.${id}`);
    close();
  });
  form.addEventListener("roost:accepted", () => forget(`edit.${id}`));
  area.addEventListener("keydown", (event) => {
    if (isComposing(event)) return;
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (isSendKey(event)) {
      event.preventDefault();
      form.requestSubmit(form.querySelector("button[name=do]"));
    }
  });
}

// Reading aloud is offered if the browser has voices, which it loads after the page.
function startVoices() {
  const voices = window.speechSynthesis;
  const look = () => document.body.classList.toggle("can-speak", Boolean(voices?.getVoices().length));
  look();
  voices?.addEventListener?.("voiceschanged", look);
}

export function startMessages() {
  startVoices();
  on("text", showText);
  on("progress", showProgress);
  on("finished", finish);
  new MutationObserver(markLast).observe(list, { childList: true });
  markLast();
  startBlocks();
  document.body.style.setProperty("--preview", JSON.stringify(document.body.dataset.tPreview));
  document.body.style.setProperty("--preview-close", JSON.stringify(document.body.dataset.tPreviewClose));
  list.addEventListener("click", async (event) => {
    const shows = event.target.closest(".code-preview, [data-preview]");
    if (shows) (await import("./preview.js")).togglePreview(shows);
    const speaks = event.target.closest("[data-speak]");
    if (speaks) (await import("./speech.js")).toggleReading(speaks.closest(".answer"));
  });
  list.addEventListener("click", (event) => {
    const message = event.target.closest(".message");
    const isVersion = Boolean(event.target.closest("[data-versions]"));
    pressed = { index: [...list.querySelectorAll(".message")].indexOf(message), isVersion };
    if (event.target.closest("[data-edit]")) edit(message);
  });
  list.addEventListener("keydown", (event) => {
    const versions = event.target.closest("[data-versions]");
    if (!versions || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    event.preventDefault();
    versions.querySelector(event.key === "ArrowLeft" ? "button" : "button:last-child")?.click();
  });
}
