// The page /docs: example tabs, copying, and "Try it", which sends the request and shows the response.
import { copyBySelection } from "./copy.js";

const words = document.getElementById("docs-contents").dataset;

async function copy(button) {
  const text = document.getElementById(button.dataset.docsCopy).textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no clipboard with plain http to another machine
    if (!copyBySelection(text)) return;
  }
  const label = button.getAttribute("aria-label");
  button.classList.add("is-done");
  button.setAttribute("aria-label", document.body.dataset.tCopied);
  setTimeout(() => {
    button.classList.remove("is-done");
    button.setAttribute("aria-label", label);
  }, 1500);
}

function choose(tab) {
  for (const other of tab.parentElement.children) {
    const isChosen = other === tab;
    other.setAttribute("aria-selected", String(isChosen));
    other.tabIndex = isChosen ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = !isChosen;
  }
}

function step(event) {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const tab = event.target.closest("[role=tab]");
  if (!by || !tab) return;
  const tabs = [...tab.parentElement.children];
  const next = tabs[(tabs.indexOf(tab) + by + tabs.length) % tabs.length];
  choose(next);
  next.focus();
}

async function* pieces(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function show(answer, text, isError) {
  answer.hidden = false;
  answer.textContent = text;
  answer.classList.toggle("is-error", isError);
}

async function send(form) {
  const answer = form.querySelector(".docs-answer");
  const body = form.querySelector("textarea");
  const figures = form.querySelector(".docs-figures");
  figures.replaceChildren();
  if (body) {
    try {
      JSON.parse(body.value);
    } catch (error) {
      show(answer, words.notJson.replace("%", error.message), true);
      return;
    }
  }
  const stop = form.querySelector(".docs-stop");
  const controller = new AbortController();
  stop.onclick = () => controller.abort();
  stop.hidden = false;
  show(answer, words.waiting, false);
  const began = performance.now();
  try {
    const headers = { "Content-Type": "application/json" };
    const { method, path } = form.dataset;
    const response = await fetch(path, { method, headers, body: body?.value, signal: controller.signal });
    await read(response, answer);
    figure(figures, `${response.status} ${response.statusText}`);
    figure(figures, `${((performance.now() - began) / 1000).toFixed(2)} s`);
  } catch (error) {
    if (error.name !== "AbortError") show(answer, words.failed, true);
  } finally {
    stop.hidden = true;
  }
}

async function read(response, answer) {
  const isStream = !(response.headers.get("Content-Type") ?? "").startsWith("application/json");
  let text = "";
  for await (const piece of pieces(response)) {
    text += piece;
    if (!isStream) continue;
    show(answer, text, !response.ok);
    answer.scrollTop = answer.scrollHeight;
  }
  show(answer, isStream ? text : pretty(text), !response.ok);
}

function figure(figures, text) {
  const one = document.createElement("span");
  one.textContent = text;
  figures.append(one);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-docs-copy]");
  if (button) copy(button);
  const tab = event.target.closest(".docs-tab");
  if (tab) choose(tab);
});
document.addEventListener("keydown", step);
document.addEventListener("submit", (event) => {
  const form = event.target.closest(".docs-try");
  if (!form) return;
  event.preventDefault();
  send(form);
});

// A link to one operation opens it.
const wanted = location.hash && document.querySelector(location.hash);
if (wanted instanceof HTMLDetailsElement) wanted.open = true;
