// The notebook: saves typed text, reads generated text line by line, and shows the alternatives of each token. The form
// also works without this script.

import { at, lines } from "./base.js";
import { draft, forget, isComposing, keep } from "./drafts.js";

const SAVE_MS = 600;
const HOVER_MS = 450;
const form = document.getElementById("notebook");
const area = document.getElementById("notebook-text");
const live = document.getElementById("live");
const place = document.getElementById("tokens-place");
const said = document.getElementById("said");
const here = at(`/notebook/${form.dataset.id}`);
const key = `notebook.${form.dataset.id}`;
let timer;
let writing = null; // aborts the generating request
let saving = Promise.resolve(true);
let changes = 0;

const isTokens = () => form.elements.view.value === "tokens";

function say(text, isWrong = false) {
  said.textContent = text;
  said.classList.toggle("is-wrong", isWrong);
}

function fields(more = {}) {
  const found = new URLSearchParams(new FormData(form));
  found.delete("view");
  for (const [name, value] of Object.entries(more)) found.set(name, value);
  return found;
}

// The notebook's state on the server.
function take(state, isTextToo) {
  form.elements.seen.value = state.seen;
  document.getElementById("undo").disabled = !state.can_undo;
  document.getElementById("redo").disabled = !state.can_redo;
  for (const name of document.querySelectorAll(".notebook-list [aria-current] span")) name.textContent = state.name;
  if (isTextToo && area.value !== state.text) area.value = state.text;
}

function told(error) {
  say(`${error.message} ${error.hint}`, true);
  return false;
}

async function post(path, body, accept, signal) {
  return fetch(`${here}/${path}`, { method: "POST", body, signal, headers: { Accept: accept } });
}

// One after the other: each request contains the version it has seen. Other paths change the text as well.
function save(path = "save", isTextToo = false) {
  clearTimeout(timer);
  saving = saving.then(async () => {
    const before = changes;
    say(form.dataset.saving);
    try {
      const answer = await post(path, fields(), "application/json");
      const found = await answer.json();
      if (found.error) return told(found.error);
      take(found, isTextToo);
      if (before === changes || isTextToo) {
        forget(key);
        form.removeAttribute("data-dirty");
      }
      say(form.dataset.saved);
      return true;
    } catch {
      say(form.dataset.unsaved, true); // the text is stored in this browser meanwhile
      return false;
    }
  });
  return saving;
}

// Generation
function setWriting(controller) {
  writing = controller;
  area.readOnly = Boolean(writing);
  document.getElementById("continue").hidden = Boolean(writing);
  document.getElementById("stop").hidden = !writing;
  for (const button of form.querySelectorAll("[data-live=gap], [data-live=undo], [data-live=redo]")) button.hidden = Boolean(writing);
}

async function write(more) {
  if (writing || !(await save())) return;
  setWriting(new AbortController());
  live.hidden = !isTokens();
  area.hidden = isTokens();
  place.hidden = true;
  let shown = { head: area.value, tail: "", text: "" };
  let state = null;
  live.replaceChildren(span(shown.head, "typed"));
  try {
    const answer = await post("continue", fields(more), "application/x-ndjson", writing.signal);
    if (!answer.ok) told((await answer.json()).error);
    else {
      for await (const line of lines(answer.body)) {
        if (line.head !== undefined) {
          shown = { head: line.head, tail: line.tail, text: "" };
          live.replaceChildren(span(shown.head, "typed"));
        }
        if (line.text !== undefined) add(shown, line);
        if (line.waiting) say(line.waiting);
        if (line.figures) say(line.figures);
        if (line.error) told(line.error);
        if (line.state) state = line.state;
      }
    }
  } catch {
    if (!state) say(form.dataset.lost, true);
  }
  if (state) {
    take(state, true);
    forget(key);
  }
  setWriting(null);
  form.removeAttribute("data-dirty");
  live.hidden = true;
  await showView();
}

function add(shown, line) {
  shown.text += line.text;
  const isAtEnd = (box) => box.scrollHeight - box.scrollTop - box.clientHeight < 60;
  const follows = [area, live].filter(isAtEnd);
  area.value = shown.head + shown.text + shown.tail;
  for (const [text, level, chance] of line.tokens) {
    const token = span(text, `token token-${level}`);
    token.title = chance;
    live.append(token);
  }
  for (const box of follows) box.scrollTop = box.scrollHeight;
  if (said.classList.contains("is-wrong") || !said.dataset.isWriting) say("");
}

function span(text, name) {
  const made = document.createElement("span");
  made.className = name;
  made.textContent = text;
  return made;
}

// The text, or its tokens
async function showView() {
  area.hidden = isTokens();
  place.hidden = !isTokens();
  if (isTokens()) await htmx.ajax("GET", `${here}/tokens`, { target: "#tokens", swap: "outerHTML" });
}

form.addEventListener("change", async (event) => {
  if (event.target.name !== "view") return;
  if (isTokens() && !writing) await save();
  if (!writing) return showView();
  live.hidden = !isTokens();
  area.hidden = isTokens();
});

// Hovering over a token works like a click.
let resting;
place.addEventListener("pointerover", (event) => {
  clearTimeout(resting);
  const token = event.target.closest("button.token[name=at]");
  if (!token || event.pointerType !== "mouse") return;
  resting = setTimeout(() => {
    if (token.isConnected) htmx.ajax("GET", `${here}/tokens?at=${token.value}`, { target: "#alternatives-notebook", swap: "outerHTML" });
  }, HOVER_MS);
});
place.addEventListener("pointerout", () => clearTimeout(resting));
place.addEventListener("click", () => clearTimeout(resting), true);

function commands(button) {
  const points = (text) => [...text].length;
  return {
    continue: () => write({}),
    gap: () => write({ gap: points(area.value.slice(0, area.selectionStart)) }),
    fork: () => write({ fork: button.value }),
    stop: () => post("stop", "", "text/html"),
    undo: () => save("undo", true).then(showView),
    redo: () => save("redo", true).then(showView),
  }[button?.dataset.live];
}

form.addEventListener("submit", (event) => {
  const command = commands(event.submitter ?? document.getElementById("continue"));
  if (!command) return;
  event.preventDefault();
  command();
});

document.addEventListener("keydown", (event) => {
  if (isComposing(event) || event.defaultPrevented) return;
  const isInField = event.key === "Enter" && !(event.ctrlKey || event.metaKey) && event.target.matches?.("#notebook input");
  if (event.key === "Escape" && writing && !document.querySelector(":popover-open, dialog[open]")) post("stop", "", "text/html");
  else if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && form.contains(event.target)) write({});
  else if (!isInField) return;
  event.preventDefault();
});

// Saves while typing; text that could not be saved is stored in this browser and restored.
keep(area, key);
form.addEventListener("input", (event) => {
  if (event.target.name === "view" || writing) return;
  changes += 1;
  clearTimeout(timer);
  timer = setTimeout(save, SAVE_MS);
});
const left = draft(key);
if (left && left !== area.value) {
  area.value = left;
  form.dispatchEvent(new Event("input"));
} else forget(key);
form.dataset.ready = "1";
