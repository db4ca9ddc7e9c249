// The chat page, put together. Every form also posts without this script; with it they travel over the socket.

import { at } from "./js/base.js";
import { askForWords, attached, startAttachments } from "./js/attachments.js";
import { closeDrawer, openChats, startChats } from "./js/chats.js";
import { startCopying } from "./js/copy.js";
import { draft, entersLine, forget, grow, isComposing, isSendKey, keep } from "./js/drafts.js";
import { isOpen, on, reopen, send, startLive, wasOpen } from "./js/live.js";
import { shownMessages, startMessages } from "./js/messages.js";
import { optionFields, panelFields, saveOptions, startOptions } from "./js/options.js";
import { startScrolling, toEnd } from "./js/scroll.js";

const composer = document.getElementById("composer");
const prompt = document.getElementById("prompt");
const chatId = () => document.body.dataset.chat;
const draftKey = () => chatId() || "new";
let isSending = false;
let unsure = ""; // sent, but the connection broke before the server said that it has it
let shownPath = location.pathname;
let isLeaving = false; // this page deletes its own chat: the server says where to go
let answering = composer.hasAttribute("data-answering") ? "?" : "";

const shownNow = () => ({ ...panelFields(), chat: chatId(), shown: shownMessages() });

function setAnswering(message) {
  answering = message;
  composer.toggleAttribute("data-answering", Boolean(message));
}

function becomeChat(frame) {
  document.body.dataset.chat = frame.id;
  for (const field of document.querySelectorAll("#commands [name=chat], #composer [name=chat], #panel [name=chat][form=options], #save-preset [name=chat], #chat-state [name=chat]")) {
    field.value = frame.id;
  }
  shownPath = at(`/chat/${frame.id}`);
  history.pushState({}, "", shownPath);
}

// A file was attached to a chat that had not begun; what is typed stays its draft.
function beginWithFile(id) {
  const typed = prompt.value;
  forget(draftKey());
  becomeChat({ id });
  prompt.value = typed;
  prompt.dispatchEvent(new Event("input"));
  reopen(shownNow());
}

// Forms
async function submit(form, submitter) {
  saveOptions();
  const fields = Object.fromEntries(new FormData(form));
  if (submitter?.name) fields[submitter.name] = submitter.value;
  if (form === composer) return sendMessage(fields);
  if (form.id === "save-preset") Object.assign(fields, { ...optionFields(), ...fields });
  isLeaving = fields.do === `delete_chat:${chatId()}`;
  const wasTaken = await send({ chat: chatId(), ...fields });
  isLeaving = isLeaving && wasTaken;
  if (wasTaken) form.dispatchEvent(new CustomEvent("roost:accepted"));
  submitter?.closest(".toast")?.remove();
}

async function sendMessage(fields) {
  if (!fields.text.trim()) askForWords();
  if (isSending || answering || !fields.text.trim()) return;
  isSending = true;
  await attached();
  fields.chat = chatId();
  const key = draftKey();
  const wasTyped = fields.text === prompt.value;
  const options = chatId() ? {} : optionFields();
  const wasTaken = await send({ ...options, ...fields });
  isSending = false;
  unsure = wasTaken ? "" : fields.text;
  if (!wasTaken) return;
  if (wasTyped) {
    forget(key);
    prompt.value = typedSince(fields.text);
    prompt.dispatchEvent(new Event("input"));
  }
  toEnd();
  focusPrompt();
}

// A connection that is back shows whether the message had arrived.
function clearArrived() {
  const last = [...document.querySelectorAll(".user [data-source]")].at(-1)?.value;
  if (!unsure || last?.trim() !== unsure.trim()) return;
  for (const key of [draftKey(), "new"]) if (draft(key).trim() === unsure.trim()) forget(key);
  if (prompt.value.trim() === unsure.trim()) {
    prompt.value = "";
    prompt.dispatchEvent(new Event("input"));
  }
  unsure = "";
}

// What was written while the message was on its way.
function typedSince(text) {
  return prompt.value.startsWith(text) ? prompt.value.slice(text.length).trimStart() : prompt.value;
}

// Not on touch screens, where it would bring up the keyboard.
function focusPrompt() {
  if (matchMedia("(hover: hover)").matches) prompt.focus({ preventScroll: true });
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("[data-live]")) return;
  if (form === composer && answering) return event.preventDefault();
  // While the connection is lost all stays as typed; a page that never had one posts its forms.
  if (!isOpen() && !wasOpen()) return;
  event.preventDefault();
  if (!isOpen()) return;
  submit(form, event.submitter);
});

// A slash at the beginning: the saved prompts
let prompts;
prompt.addEventListener("input", () => {
  if (prompts || prompt.value.startsWith("/")) (prompts ??= import("./js/prompts.js")).then((list) => list.show(), () => (prompts = undefined));
});

// Keys
prompt.addEventListener("keydown", (event) => {
  const isPlain = !(event.shiftKey || event.ctrlKey || event.metaKey || event.altKey || isComposing(event));
  if (event.key === "ArrowUp" && isPlain && !prompt.value && !answering) {
    const edits = [...document.querySelectorAll(".user [data-edit]")].at(-1);
    if (edits) event.preventDefault();
    edits?.click();
  }
  if (!isSendKey(event)) return;
  event.preventDefault();
  if (!prompt.value.trim()) askForWords();
  else if (!answering) composer.requestSubmit();
});

document.addEventListener("keydown", (event) => {
  if (isComposing(event) || event.defaultPrevented) return;
  const isTyping = event.target.closest("input:not([type=range]), textarea, select");
  const isSlash = event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey;
  if (isSlash) {
    event.preventDefault();
    openChats();
    document.getElementById("search").focus();
  } else if (event.key === "Escape" && !document.querySelector(":popover-open, dialog[open]")) escape(event);
});

function escape(event) {
  const search = document.getElementById("search");
  if (event.target === search && search.value) {
    search.value = "";
    search.dispatchEvent(new Event("input", { bubbles: true }));
  } else if (closeDrawer()) prompt.focus();
  else if (answering) document.querySelector(".stop").click();
  else if (event.target === search) prompt.focus();
}

// The answer being written
on("answering", (frame) => {
  if (answering && !frame.message) document.body.dispatchEvent(new Event("roost:answered"));
  // said once, as is the answer when it is whole
  const announcer = document.getElementById("announcer");
  if (frame.message && !answering) announcer.textContent = announcer.dataset.begins;
  setAnswering(frame.message);
  clearArrived();
});
on("chat", becomeChat);
on("go", (frame) => location.assign(at(frame.url)));
on("gone", () => isLeaving || location.assign(at("/")));
startMessages();

// Not for a jump within the page, such as the skip link's.
addEventListener("popstate", () => location.pathname === shownPath || location.reload());
startCopying();
startChats();
startOptions();
startScrolling();
startLive(shownNow);
startAttachments(beginWithFile);
document.body.addEventListener("htmx:wsOpen", saveOptions);
addEventListener("pagehide", saveOptions);

// What was said in the address is not said again by a reload.
if (new URLSearchParams(location.search).has("done")) history.replaceState({}, "", location.pathname);

// A draft that arrived, but whose arrival this page never heard of.
const sent = [...document.querySelectorAll(".user [data-source]")].at(-1)?.value.trim();
for (const key of [draftKey(), "new"]) if (sent && draft(key).trim() === sent) forget(key);

prompt.value = prompt.value || draft(draftKey());
keep(prompt, draftKey);
// Only where the browser turns speech into text.
const voice = document.getElementById("voice");
voice.hidden = !(window.isSecureContext && (window.SpeechRecognition ?? window.webkitSpeechRecognition));
voice.addEventListener("click", async () => (await import("./js/speech.js")).toggleDictation(voice, prompt));

prompt.enterKeyHint = entersLine() ? "enter" : "send";
if (!location.hash) focusPrompt();
grow(prompt);
