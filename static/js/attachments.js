// Text files for the next message: chosen, dropped or pasted. They are uploaded one after the other, so that a new chat
// is created only once. Also files with chats: chosen in the list, dropped on it, or recognised by their extension.

import { at } from "./base.js";
import { optionFields } from "./options.js";

const input = document.getElementById("attach");
const note = document.getElementById("attaching");
const place = document.getElementById("reading");
const prompt = document.getElementById("prompt");
const LONG_PASTE = 3000; // characters
let pasted = ""; // the text that may become a file
let queue = Promise.resolve();
let becomeChat;

// Settles when all chosen files have been uploaded or refused.
export function attached() {
  return queue;
}

// A message needs more than files.
export function askForWords() {
  if (document.querySelector("#attached .file")) say("words", "");
}

function say(key, name) {
  pasted = "";
  note.hidden = !key;
  note.classList.toggle("is-failed", key === "failed" || key === "words");
  note.textContent = key ? note.dataset[key].replace("{name}", name) : "";
}

function body(file) {
  const form = new FormData();
  const chat = document.body.dataset.chat;
  for (const [name, value] of Object.entries(chat ? {} : optionFields())) form.append(name, value);
  form.set("chat", chat);
  // one byte more than allowed, so that the server reports it
  form.append("file", file.slice(0, Number(input.dataset.fileBytes) + 1), file.name);
  return form;
}

async function upload(file) {
  say("busy", file.name);
  try {
    const answer = await fetch(at("/chat/attach"), { method: "POST", headers: { "HX-Request": "true" }, body: body(file) });
    if (!answer.headers.has("Roost-Chat")) throw new Error(answer.statusText);
    show(await answer.text(), answer.headers.get("Roost-Chat"));
    say("");
  } catch {
    say("failed", file.name);
  }
}

function show(html, chat) {
  const parts = new DOMParser().parseFromString(html, "text/html");
  document.getElementById("attached").replaceWith(parts.getElementById("attached"));
  document.getElementById("toasts").append(...parts.querySelectorAll(".toast"));
  if (chat && !document.body.dataset.chat) becomeChat(chat);
}

const asFile = (text) => new File([text], note.dataset.pasted, { type: "text/plain" });

// The browser would cut a long pasted text.
function isTooLong(text) {
  const kept = prompt.value.length - (prompt.selectionEnd - prompt.selectionStart);
  return prompt.maxLength >= 0 && kept + text.length > prompt.maxLength;
}

// A long text may be better as a file: it is below the question then, and can be searched.
function offerFile(text) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "link-button";
  button.textContent = note.dataset.long;
  button.addEventListener("click", () => {
    prompt.value = prompt.value.replace(text, "");
    prompt.dispatchEvent(new Event("input")); // which ends the offer
    take([asFile(text)]);
    prompt.focus();
  });
  note.classList.remove("is-failed");
  note.replaceChildren(button);
  note.hidden = false;
  pasted = text;
}

function take(files) {
  for (const file of files) queue = queue.then(() => upload(file));
}

const list = document.getElementById("chats");
const chooser = document.querySelector("#import input");
// A .json file may also be an attachment; dropped on the list, it is a chat.
const isChat = (file, at) => /\.(rwkvchat|jsonl|zip)$|conversations.*\.json$/i.test(file.name) || (/\.json$/i.test(file.name) && list.contains(at));

async function bring(files) {
  const form = new FormData();
  for (const file of files) form.append("file", file);
  say("", "");
  note.hidden = false;
  note.textContent = chooser.dataset.busy;
  try {
    const answer = await fetch(at("/chat/import"), { method: "POST", headers: { "HX-Request": "true" }, body: form });
    if (answer.headers.has("Roost-Chat")) return location.assign(answer.headers.get("Roost-Chat"));
    const parts = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.getElementById("toasts").append(...parts.querySelectorAll(".toast"));
    note.hidden = true;
  } catch {
    note.classList.add("is-failed");
    note.textContent = chooser.dataset.failed;
  }
}

function startImport() {
  chooser.addEventListener("change", () => {
    bring([...chooser.files]);
    chooser.value = "";
  });
}

// Folders have no content to read, but the browser reports it only when asked.
function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.());
  return [...transfer.files].filter((_, index) => !entries[index]?.isDirectory);
}

function startDropping() {
  let depth = 0; // enter and leave are sent for every element passed
  const over = (change) => {
    depth = Math.max(0, change);
    place.classList.toggle("is-over", depth > 0);
    list.classList.toggle("is-over", depth > 0);
  };
  // anywhere on the page: otherwise the browser would leave it to show the file
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      if (name === "dragenter") over(depth + 1);
      else if (name === "dragleave") over(depth - 1);
      else if (name === "drop") {
        over(0);
        const files = dropped(event.dataTransfer);
        const chats = files.filter((file) => isChat(file, event.target));
        if (chats.length) bring(chats);
        take(files.filter((file) => !chats.includes(file)));
      }
    });
  }
}

// ``begin(id)`` shows the chat that was created for a file.
export function startAttachments(begin) {
  becomeChat = begin;
  input.removeAttribute("name"); // only for pages without this script
  input.addEventListener("change", () => {
    take([...input.files]);
    input.value = "";
  });
  prompt.addEventListener("input", () => {
    if (note.classList.contains("is-failed") || (pasted && !prompt.value.includes(pasted))) say("");
  });
  prompt.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    const text = event.clipboardData.getData("text/plain").replaceAll("\r\n", "\n");
    if (text.length > LONG_PASTE && isTooLong(text)) {
      event.preventDefault();
      return take([asFile(text)]);
    }
    if (text.length > LONG_PASTE) return offerFile(text);
    if (!files.length || event.clipboardData.types.includes("text/plain")) return;
    event.preventDefault();
    take(files);
  });
  startDropping();
  startImport();
}
