// The models page: uploads, and changes on disk or in the engine while the page is open.

import { at } from "./base.js";

const page = document.getElementById("models-page");
const words = page.dataset;
const sliceBytes = Number(words.slice);

// Requests changes: often while something is going on, otherwise rarely, never in the background.
const QUIET_MS = 900; // plus the second between two checks of the disk: a new file is listed within two seconds
const BUSY_MS = 500;
let timer;

function revision(id) {
  return document.getElementById(id)?.dataset.revision ?? "";
}

async function look() {
  clearTimeout(timer);
  const known = new URLSearchParams({ list: revision("models-list"), activity: revision("models-activity") });
  // Replaces nothing while a menu or dialog is open, or a button is pressed.
  const isHeld = document.hidden || document.querySelector(".row-menu:popover-open, dialog[open], #models-page :active");
  if (!isHeld) await htmx.ajax("GET", at(`/models/news?${known}`), { source: page, swap: "none" }).catch(() => {});
  const isBusy = document.querySelector("#models-activity[data-busy]");
  clearTimeout(timer);
  timer = setTimeout(look, isBusy ? BUSY_MS : QUIET_MS);
}

timer = setTimeout(look, QUIET_MS);
document.addEventListener("visibilitychange", () => document.hidden || look());
document.body.addEventListener("roost:status", look);

// The next update has as many rows as are shown now.
document.body.addEventListener("htmx:afterSettle", () => {
  const shown = document.querySelectorAll("#models-list .model-row").length;
  document.querySelector("#models-filter [name=count]").value = Math.max(shown, 30);
  hideOwnUploads();
});

// Closes a dialog whose form was accepted.
document.body.addEventListener("htmx:oobAfterSwap", (event) => {
  hideOwnUploads();
  if (event.detail.target.id === "import-form") document.getElementById("import-dialog").close();
});

// Uploads: one after the other, in slices. A slice that fails is sent again.
const list = document.getElementById("uploads");
const template = document.getElementById("upload-row");
const queue = [];
const own = new Set();
let isSending = false;

document.getElementById("models-files").addEventListener("change", (event) => {
  for (const file of event.target.files) enqueue(file);
  event.target.value = "";
});

// A folder is one model if its files form one; otherwise the model files in it and below are uploaded separately.
const folderInput = document.getElementById("models-folder");
document.getElementById("choose-folder").addEventListener("click", () => folderInput.click());
folderInput.addEventListener("change", () => {
  const folders = new Map();
  for (const file of folderInput.files) {
    const path = file.webkitRelativePath.split("/").slice(0, -1).join("/");
    if (path.includes("/.")) continue;
    folders.set(path, [...(folders.get(path) ?? []), file]);
  }
  for (const [path, files] of folders) enqueueFolder(path.split("/").at(-1), files);
  folderInput.value = "";
});

const ENDINGS = [".pth", ".safetensors", ".st", ".bin", ".gguf"];

// The rules of webapp/weights/model_folder.py; the server checks again.
function isModelFolder(names) {
  if (names.has("adapter_config.json") && names.has("adapter_model.safetensors")) return true;
  if (names.has("model.safetensors.index.json") || names.has("pytorch_model.bin.index.json")) return true;
  return names.has("config.json") && [...names].some((name) => /\.safetensors$|^pytorch_model\.bin$/.test(name));
}

function enqueueFolder(name, files) {
  const shown = files.filter((file) => !file.name.startsWith("."));
  shown.sort((one, other) => one.size - other.size || (one.name < other.name ? -1 : 1));
  if (!isModelFolder(new Set(shown.map((file) => file.name)))) {
    for (const file of shown) if (ENDINGS.some((ending) => file.name.toLowerCase().endsWith(ending))) enqueue(file);
    return;
  }
  const parts = shown.map((file) => [file.name, file.size]);
  const lastModified = Math.max(...shown.map((file) => file.lastModified));
  const whole = new Blob(shown); // reads nothing until a slice is sent
  enqueue({ name, size: whole.size, lastModified, parts, slice: (start, end) => whole.slice(start, end) });
}

async function enqueueEntry(entry) {
  if (!entry.isDirectory) return enqueue(await new Promise((done, fail) => entry.file(done, fail)));
  const reader = entry.createReader();
  const inside = [];
  // A browser returns a hundred entries at a time.
  for (let some = [null]; some.length; inside.push(...some)) {
    some = await new Promise((done, fail) => reader.readEntries(done, fail));
  }
  const files = inside.filter((one) => one.isFile);
  enqueueFolder(entry.name, await Promise.all(files.map((one) => new Promise((done, fail) => one.file(done, fail)))));
  for (const folder of inside.filter((one) => one.isDirectory && !one.name.startsWith("."))) await enqueueEntry(folder);
}

function enqueue(file) {
  const row = template.content.firstElementChild.cloneNode(true);
  const upload = { file, row, id: "", isCancelled: false, abort: null };
  row.querySelector(".upload-name").textContent = file.name;
  row.querySelector("progress").setAttribute("aria-label", file.name);
  row.querySelector("[data-cancel-upload]").addEventListener("click", () => cancel(upload));
  list.hidden = false;
  list.append(row);
  queue.push(upload);
  sendAll();
}

async function sendAll() {
  if (isSending) return;
  isSending = true;
  while (queue.length) await send(queue.shift());
  isSending = false;
}

async function send(upload) {
  if (upload.isCancelled) return;
  try {
    const { file } = upload;
    const form = new FormData();
    form.set("name", file.name);
    form.set("size", file.size);
    form.set("stamp", file.lastModified);
    if (file.parts) form.set("parts", JSON.stringify(file.parts));
    let state = await patiently(upload, () => fetch(at("/models/uploads"), { method: "POST", body: form }));
    upload.id = state.id;
    own.add(state.id);
    while (!state.is_done) {
      show(upload, state.offset);
      state = await patiently(upload, () => sendSlice(upload, state.offset));
    }
    finish(upload, state.text);
  } catch (error) {
    if (!upload.isCancelled) fail(upload, error);
  }
  if (!list.children.length) list.hidden = true;
}

function sendSlice(upload, offset) {
  const slice = upload.file.slice(offset, offset + sliceBytes);
  if (offset + slice.size >= upload.file.size) say(upload, words.tChecking);
  upload.abort = new AbortController();
  const url = at(`/models/uploads/${upload.id}?offset=${offset}`);
  const headers = { "Content-Type": "application/octet-stream" };
  return fetch(url, { method: "PUT", body: slice, headers, signal: upload.abort.signal });
}

// The response as JSON. If the server is offline or busy, the request is repeated while the page is open.
async function patiently(upload, ask) {
  for (let pause = 500; ; pause = Math.min(pause * 2, 15_000)) {
    if (upload.isCancelled) throw new Error();
    const answer = await ask().catch(() => null);
    if (upload.isCancelled) throw new Error();
    if (answer?.ok) {
      say(upload, "");
      return answer.json();
    }
    const error = answer && (await answer.json().catch(() => ({}))).error;
    if (error?.code === "upload_offset" && upload.id) return { offset: error.offset };
    const isPassing = !answer || answer.status === 429 || answer.status >= 502;
    if (!isPassing || error?.code === "disk_full") throw error ?? new Error(words.tAway);
    say(upload, words.tRetry);
    await new Promise((done) => setTimeout(done, pause));
  }
}

function cancel(upload) {
  upload.isCancelled = true;
  upload.abort?.abort();
  upload.row.remove();
  if (!list.children.length) list.hidden = true;
  if (upload.id) discard(upload.id);
}

async function discard(id) {
  await fetch(at(`/models/uploads/${id}`), { method: "DELETE" }).catch(() => {});
  own.delete(id);
}

function show(upload, offset) {
  const { size } = upload.file;
  upload.row.querySelector("progress").value = size ? (100 * offset) / size : 0;
  const shown = words.tOf.replace("{done}", sizeText(offset)).replace("{total}", sizeText(size));
  upload.row.querySelector(".upload-shown").textContent = shown;
}

function say(upload, text, isTrouble = false) {
  const line = upload.row.querySelector(".upload-text");
  line.textContent = text ?? "";
  line.hidden = !text;
  line.classList.toggle("is-trouble", isTrouble);
}

function finish(upload, text) {
  own.delete(upload.id);
  show(upload, upload.file.size);
  say(upload, text);
  setTimeout(() => {
    upload.row.remove();
    if (!list.children.length) list.hidden = true;
  }, 6000);
  look();
}

function fail(upload, error) {
  own.delete(upload.id);
  upload.row.querySelector("progress").remove();
  say(upload, [error?.message, error?.hint?.replaceAll("`", "")].filter(Boolean).join(" ") || words.tAway, true);
  look();
}

// Sizes in the same form as on the server.
function sizeText(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  for (const unit of ["kB", "MB", "GB"]) {
    bytes /= 1000;
    if (bytes < 999.5) return `${bytes < 100 ? Number(bytes.toPrecision(3)) : bytes.toFixed(0)} ${unit}`;
  }
  return `${Number((bytes / 1000).toPrecision(3))} TB`;
}

// The server lists unfinished uploads; without those that this page is sending now.
function hideOwnUploads() {
  for (const row of document.querySelectorAll("[data-upload]")) row.hidden = own.has(row.dataset.upload);
}

// Leaving interrupts an upload: it can be resumed within a day.
window.addEventListener("beforeunload", (event) => {
  if (isSending) event.preventDefault();
});

// A file dropped outside the box is uploaded too; otherwise the browser would open it.
document.addEventListener("dragover", (event) => {
  if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
});
// Before the box gets it, because its file input would turn a folder into an empty file.
document.addEventListener(
  "drop",
  (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    event.stopPropagation();
    document.querySelector(".drop.is-over")?.classList.remove("is-over");
    // Entries exist only during the event.
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (entries.length) for (const entry of entries) enqueueEntry(entry).catch(() => {});
    else for (const file of event.dataTransfer.files) enqueue(file);
  },
  true,
);
