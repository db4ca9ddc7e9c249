// "/name" in the composer: the saved prompts, filtered while typing. The chosen one replaces the typed text, after its
// variables were entered: {{name}}, {{name:one|another}}, {{clipboard}}, {{date}}, {{time}}.

import { at } from "./base.js";
import { isComposing } from "./drafts.js";

const MOST = 8;
const VARIABLE = /\{\{\s*([^{}|:]+?)\s*(?:[|:]([^{}]*))?\}\}/g;
const prompt = document.getElementById("prompt");
const list = document.createElement("div");
let found = null;
let asked = null;

list.className = "menu prompt-list";
list.id = "prompt-list";
list.setAttribute("role", "listbox");
list.hidden = true;
document.getElementById("composer").append(list);
prompt.setAttribute("aria-controls", "prompt-list");

async function load() {
  const answer = await fetch(at("/prompts/list"));
  if (!answer.ok) throw new Error(answer.statusText);
  found = await answer.json();
  list.setAttribute("aria-label", found.words.list);
}

const typed = () => (/^\/\S*$/.test(prompt.value) ? prompt.value.slice(1).toLocaleLowerCase() : null);
const rows = () => [...list.querySelectorAll("[role=option]")];

function close() {
  list.hidden = true;
  prompt.removeAttribute("aria-activedescendant");
}

function choose(row) {
  for (const other of rows()) other.setAttribute("aria-selected", String(other === row));
  row?.scrollIntoView({ block: "nearest" });
  if (row) prompt.setAttribute("aria-activedescendant", row.id);
}

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  if (text) made.textContent = text;
  return made;
}

export async function show() {
  if (typed() === null) return close();
  asked ??= load();
  try {
    await asked;
  } catch {
    asked = null;
    return close();
  }
  const words = typed();
  if (words === null) return close();
  const begins = (one) => one.name.toLocaleLowerCase().startsWith(words);
  const holds = (one) => `${one.name} ${one.title}`.toLocaleLowerCase().includes(words);
  const matches = [...found.prompts.filter(begins), ...found.prompts.filter((one) => !begins(one) && holds(one))].slice(0, MOST);
  list.replaceChildren(...matches.map((one, index) => {
    const row = element("div", "menu-item");
    row.id = `prompt-option-${index}`;
    row.setAttribute("role", "option");
    row.dataset.index = found.prompts.indexOf(one);
    row.append(element("code", "", `/${one.name}`), element("span", "text", one.title || one.content));
    return row;
  }));
  if (!found.prompts.length) {
    const link = element("a", "menu-item", `${found.words.none} ${found.words.add}`);
    link.href = at("/prompts");
    list.append(link);
  }
  list.hidden = !list.children.length;
  choose(rows()[0]);
}

// The variables of the text, by name; a choice has the texts between its strokes.
async function variables(text) {
  const known = new Map();
  const now = new Date();
  const wanted = new Map();
  for (const [, name, more] of text.matchAll(VARIABLE)) {
    const key = name.toLocaleLowerCase();
    if (["date", "current_date"].includes(key)) known.set(name, now.toLocaleDateString());
    else if (["time", "current_time"].includes(key)) known.set(name, now.toLocaleTimeString());
    else if (key === "clipboard") {
      const copied = await navigator.clipboard?.readText().catch(() => null);
      if (typeof copied === "string") known.set(name, copied);
      else wanted.set(name, []);
    } else if (!wanted.has(name)) wanted.set(name, more?.includes("|") && !more.includes("=") ? more.split("|").map((one) => one.trim()) : []);
  }
  return { known, wanted };
}

const filled = (text, values) => text.replace(VARIABLE, (whole, name) => values.get(name) ?? whole);

async function take(one) {
  close();
  const { known, wanted } = await variables(one.content);
  if (!wanted.size) return put(filled(one.content, known));
  const dialog = element("dialog", "prompt-form");
  const form = element("form", "form");
  form.method = "dialog";
  form.append(element("h2", "", one.title || `/${one.name}`));
  for (const [name, choices] of wanted) {
    const label = element("label", "label", name);
    const field = element(choices.length ? "select" : "textarea", "field");
    if (!choices.length) field.rows = 1;
    for (const choice of choices) field.append(new Option(choice));
    field.name = name;
    label.append(field);
    form.append(label);
  }
  const buttons = element("div", "form-buttons");
  const cancel = element("button", "button", found.words.cancel);
  cancel.type = "button";
  cancel.addEventListener("click", () => dialog.close());
  buttons.append(cancel, element("button", "button button-main", found.words.insert));
  form.append(buttons);
  form.addEventListener("submit", () => {
    for (const [name, value] of new FormData(form)) known.set(name, value);
    put(filled(one.content, known));
  });
  dialog.append(form);
  dialog.addEventListener("close", () => {
    dialog.remove();
    prompt.focus();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "Escape") event.stopPropagation();
    if (event.key === "Enter" && !event.shiftKey && !isComposing(event) && event.target.matches("textarea, select")) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  document.body.append(dialog);
  dialog.showModal();
  form.querySelector(".field").focus();
}

function put(text) {
  prompt.value = text;
  prompt.dispatchEvent(new Event("input", { bubbles: true }));
  prompt.focus();
}

prompt.addEventListener("keydown", (event) => {
  if (list.hidden || isComposing(event)) return;
  const place = rows().findIndex((row) => row.getAttribute("aria-selected") === "true");
  if (event.key === "ArrowDown" || event.key === "ArrowUp") choose(rows().at((place + (event.key === "ArrowDown" ? 1 : -1)) % rows().length));
  else if (event.key === "Escape") close();
  else if ((event.key === "Enter" || event.key === "Tab") && rows()[place]) take(found.prompts[rows()[place].dataset.index]);
  else return;
  event.preventDefault();
  event.stopImmediatePropagation();
}, true);
list.addEventListener("click", (event) => {
  const row = event.target.closest("[role=option]");
  if (row) take(found.prompts[row.dataset.index]);
});
list.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus, a phone its keyboard
prompt.addEventListener("blur", close);
