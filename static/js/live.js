// The socket, with htmx' ws extension (which also reconnects): frames that begin with "{" are ours, all others are
// HTML.

import { at } from "./base.js";
import { giveUp, isPolling, startTransport } from "./transport.js";

const CONFIRM_MS = 3000;
const GIVE_UP_MS = 9000;
let wrapper = null;
let isFresh = true;
let number = 0;
const waitingFor = new Map();
const handlers = {};

export function on(type, handler) {
  handlers[type] = handler;
}

export function isOpen() {
  return wrapper !== null;
}

export function wasOpen() {
  return !isFresh;
}

// Sends a command; the promise says whether the server accepted it. Without a reply nothing is lost, because the caller
// keeps it. After three seconds without a reply the page says so; later the connection counts as broken.
export function send(fields) {
  const sentAs = `c${++number}`;
  const answer = new Promise((resolve) => waitingFor.set(sentAs, resolve));
  wrapper.sendImmediately(JSON.stringify({ ...fields, sent_as: sentAs }));
  const unsure = setTimeout(() => tell("unsure"), CONFIRM_MS);
  const broken = setTimeout(giveUp, GIVE_UP_MS);
  return answer.finally(() => {
    clearTimeout(unsure);
    clearTimeout(broken);
    if (!waitingFor.size && told === "unsure") tell("");
  });
}

// One line above the page: "lost", "unsure", or the server's own text; "" for none.
let told = "";

function tell(key, words = "") {
  const lost = document.getElementById("lost");
  told = key;
  lost.hidden = !key;
  if (key) lost.querySelector("span").textContent = words || lost.dataset[key];
}

// The page shows another chat than when the socket opened.
export function reopen(shown) {
  wrapper?.sendImmediately(JSON.stringify({ do: "open", fresh: false, ...shown }));
}

function settle(frame, wasTaken) {
  waitingFor.get(frame.sent_as)?.(wasTaken);
  waitingFor.delete(frame.sent_as);
}

on("accepted", (frame) => settle(frame, true));
on("refused", (frame) => settle(frame, false));

// The ws extension's own delay is random, up to 64 s: after a restart of ten seconds the page would stay disconnected
// for long.
const LONGEST_DELAY_MS = 4000;
const delayAfter = (tries) => Math.min(500 * 2 ** tries, LONGEST_DELAY_MS) * (0.5 + Math.random() / 2);

export function startLive(shown) {
  htmx.config.wsReconnectDelay = delayAfter;
  startTransport(at("/chat/poll"), (refusal) => refusal && tell("refused", refusal));
  let notice;
  document.body.addEventListener("htmx:wsOpen", (event) => {
    wrapper = event.detail.socketWrapper;
    clearTimeout(notice);
    tell("");
    document.getElementById("polling").hidden = !isPolling();
    document.body.classList.add("is-live");
    wrapper.sendImmediately(JSON.stringify({ do: "open", fresh: isFresh, ...shown() }));
    isFresh = false;
  });
  document.body.addEventListener("htmx:wsClose", () => {
    wrapper = null;
    document.body.classList.remove("is-live");
    for (const resolve of waitingFor.values()) resolve(false);
    waitingFor.clear();
    clearTimeout(notice);
    notice = setTimeout(() => wrapper === null && told !== "refused" && tell("lost"), 1500);
  });
  document.querySelector("#lost button").addEventListener("click", () => location.reload());
  document.body.addEventListener("htmx:wsBeforeMessage", (event) => {
    if (event.detail.message[0] !== "{") return;
    event.preventDefault();
    const frame = JSON.parse(event.detail.message);
    handlers[frame.type]?.(frame);
  });
}
