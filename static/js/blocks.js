// Buttons of code and tables in an answer: wrap, download, copy as CSV. A formula is copied as its source.

import { copyText, say } from "./copy.js";

const words = document.body.dataset;
const ENDINGS = { bash: "sh", "c#": "cs", "c++": "cpp", csharp: "cs", javascript: "js", julia: "jl", kotlin: "kt", markdown: "md", python: "py", ruby: "rb", rust: "rs", shell: "sh", text: "txt", typescript: "ts" };

function button(name, text) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = name;
  made.textContent = text;
  return made;
}

// Only for finished blocks: the open end of an answer is rendered many times a second.
export function equip(root) {
  for (const head of root.querySelectorAll(".final .code-head:not(:has(.code-wrap))")) {
    const wrap = button("code-wrap", words.tWrap);
    wrap.setAttribute("aria-pressed", "false");
    head.querySelector(".code-copy").before(wrap, button("code-save", words.tSave));
  }
  for (const table of root.querySelectorAll(".final table:not(.has-csv)")) {
    table.classList.add("has-csv");
    table.tabIndex = 0; // a wide table is scrolled with keys
    table.after(button("table-csv text-button", words.tCsv));
  }
}

function save(pre) {
  const code = pre.querySelector("code");
  const language = code.className.replace("language-", "").toLowerCase();
  const ending = ENDINGS[language] ?? (/^[a-z0-9]{1,10}$/.test(language) ? language : "txt");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([code.textContent], { type: "text/plain" }));
  link.download = `code.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function cellText(cell) {
  const copy = withSources(cell.cloneNode(true));
  for (const line of copy.querySelectorAll("br")) line.replaceWith("\n");
  return copy.textContent.replace(/\n{2,}/g, "\n").trim();
}

// A spreadsheet would run a cell that begins like a formula; a negative number is not a formula.
function csvCell(text) {
  const isFormula = /^[=@\t]|^[+-](?![\d.,\s]*%?$)/.test(text);
  const safe = isFormula ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function asCsv(table) {
  return [...table.rows].map((row) => [...row.cells].map((cell) => csvCell(cellText(cell))).join(",")).join("\r\n");
}

function withSources(root) {
  for (const formula of root.querySelectorAll("math[data-tex]")) {
    const source = document.createElement("code");
    source.className = "formula-source"; // keeps its line breaks
    source.textContent = formula.dataset.tex;
    formula.replaceWith(source);
  }
  for (const tool of root.querySelectorAll(".code-head, .table-csv")) tool.remove();
  return root;
}

// The selection with the source of its formulas; the browser would copy only their characters.
function copySelection(event) {
  const selection = getSelection();
  if (selection.isCollapsed || event.target.closest?.("input, textarea")) return;
  const part = selection.getRangeAt(0).cloneContents();
  if (!part.querySelector("math[data-tex]")) return;
  const place = document.createElement("div");
  place.className = "unseen prose";
  place.append(withSources(part));
  document.body.append(place); // innerText has line breaks only for elements with a layout
  event.clipboardData.setData("text/plain", place.innerText);
  place.remove();
  event.preventDefault();
}

export function startBlocks() {
  document.addEventListener("copy", copySelection);
  document.getElementById("messages").addEventListener("click", async (event) => {
    const pressed = event.target.closest(".code-wrap, .code-save, .table-csv");
    if (!pressed) return;
    const pre = pressed.closest("pre");
    if (pressed.matches(".code-wrap")) pressed.setAttribute("aria-pressed", String(pre.classList.toggle("is-wrapped")));
    else if (pressed.matches(".code-save")) save(pre);
    else say(pressed, await copyText(asCsv(pressed.previousElementSibling)));
  });
}
