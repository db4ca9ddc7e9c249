// The command palette (Ctrl+K) and the help on shortcuts (?), loaded when opened.

import { at } from "./base.js";

const SEARCH_MS = 150;
let ready = null;

export function parts() {
  ready ??= load().catch((error) => {
    ready = null;
    throw error;
  });
  return ready;
}

async function load() {
  const answer = await fetch(at("/status/palette"), { headers: { "HX-Request": "true" } });
  if (!answer.ok) throw new Error(answer.statusText);
  const found = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("palette-parts");
  document.body.append(found);
  start();
  return found;
}

const field = () => document.getElementById("palette-field");
const list = () => document.getElementById("palette-list");
const shown = () => [...list().querySelectorAll(".palette-group:not([hidden]) .palette-row:not([hidden])")];
const plain = (text) => text.toLocaleLowerCase();

// Buttons that are available on this page.
function isThere(row) {
  const { press } = row.dataset;
  return !press || press.startsWith("#keys") || Boolean(document.querySelector(press));
}

function choose(row) {
  for (const other of list().querySelectorAll("[aria-selected=true]")) other.setAttribute("aria-selected", "false");
  row?.setAttribute("aria-selected", "true");
  row?.scrollIntoView({ block: "nearest" });
  if (row) field().setAttribute("aria-activedescendant", row.id);
  else field().removeAttribute("aria-activedescendant");
}

function filter() {
  const words = plain(field().value).split(/\s+/).filter(Boolean);
  for (const group of list().querySelectorAll(".palette-group")) {
    const name = group.getAttribute("aria-label");
    for (const row of group.querySelectorAll(".palette-row")) {
      const text = plain(`${row.textContent} ${name}`);
      row.hidden = !isThere(row) || (!row.dataset.found && !words.every((word) => text.includes(word)));
    }
    group.hidden = !group.querySelector(".palette-row:not([hidden])");
  }
  const rows = shown();
  document.getElementById("palette-none").hidden = rows.length > 0;
  choose(rows[0]);
}

// Chats and messages that contain the typed words, found by the list's search.
let timer;
let asked = 0;

async function search() {
  const query = field().value.trim();
  const number = ++asked;
  const answer = query && (await fetch(at(`/chats?q=${encodeURIComponent(query)}`), { headers: { "HX-Request": "true" } }).catch(() => null));
  if (number !== asked) return;
  for (const row of list().querySelectorAll("[data-found]")) row.remove();
  const page = answer?.ok ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
  if (number !== asked) return;
  const model = list().querySelector(".palette-row");
  for (const [index, hit] of [...(page?.querySelectorAll(".hit") ?? [])].slice(0, 12).entries()) {
    const row = model.cloneNode(true);
    row.id = `palette-found-${index}`;
    for (const name of ["press", "model"]) delete row.dataset[name];
    Object.assign(row.dataset, { found: "1", url: hit.getAttribute("href") });
    row.querySelector("kbd")?.remove();
    const icon = row.querySelector("use");
    icon.setAttribute("href", icon.getAttribute("href").replace(/#.*/, "#message-square"));
    row.querySelector("span").textContent = hit.querySelector(".hit-title").textContent;
    const excerpt = hit.querySelector(".hit-excerpt");
    if (excerpt) {
      const small = document.createElement("small");
      small.textContent = excerpt.textContent;
      row.querySelector("span").append(small);
    }
    document.getElementById("palette-found").append(row);
  }
  filter();
}

function run(row) {
  if (!row) return;
  const { url, press, model } = row.dataset;
  document.getElementById("palette").close();
  if (url) location.assign(url);
  else if (model) htmx.ajax("POST", at("/status/load"), { values: { model }, swap: "none" });
  else if (press === "#keys") showKeys();
  else {
    const target = document.querySelector(press);
    if (press === "#search") document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "/", bubbles: true })); // opens the list
    else if (target.matches("input[type=text], textarea")) target.focus();
    else target.click();
  }
}

function start() {
  field().addEventListener("input", () => {
    filter();
    clearTimeout(timer);
    timer = setTimeout(search, SEARCH_MS);
  });
  field().addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229) return;
    const rows = shown();
    const place = rows.findIndex((row) => row.getAttribute("aria-selected") === "true");
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      choose(rows.at((place + (event.key === "ArrowDown" ? 1 : -1)) % rows.length));
      event.preventDefault();
    } else if (event.key === "Enter") {
      event.preventDefault();
      run(rows[place]);
    }
  });
  list().addEventListener("click", (event) => run(event.target.closest(".palette-row")));
  for (const dialog of document.querySelectorAll("#palette, #keys")) {
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target.closest("[data-keys-close]")) dialog.close();
    });
    // a chat's own Escape stops the answer
    dialog.addEventListener("keydown", (event) => event.key === "Escape" && event.stopPropagation());
  }
}

function isAnyOpen() {
  return document.querySelector("dialog[open]");
}

export async function showPalette() {
  await parts();
  const palette = document.getElementById("palette");
  if (palette.open) return palette.close();
  if (isAnyOpen()) return;
  field().value = "";
  for (const row of list().querySelectorAll("[data-found]")) row.remove();
  asked += 1;
  palette.showModal();
  filter();
  field().focus();
}

export async function showKeys() {
  await parts();
  if (!isAnyOpen()) document.getElementById("keys").showModal();
}
