// The socket, over htmx' ws extension (which also reconnects): frames that begin with "{" are ours, all else is HTML.

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

// Sends a command; the promise tells whether the server took it. What is not answered is not lost: the caller keeps it.
export function send(fields) {
  const sentAs = `c${++number}`;
  const answer = new Promise((resolve) => waitingFor.set(sentAs, resolve));
  wrapper.sendImmediately(JSON.stringify({ ...fields, sent_as: sentAs }));
  return answer;
}

// The page shows something else now than when the socket opened.
export function reopen(shown) {
  wrapper?.sendImmediately(JSON.stringify({ do: "open", fresh: false, ...shown }));
}

function settle(frame, wasTaken) {
  waitingFor.get(frame.sent_as)?.(wasTaken);
  waitingFor.delete(frame.sent_as);
}

on("accepted", (frame) => settle(frame, true));
on("refused", (frame) => settle(frame, false));

// The ws extension's own delay is drawn from up to 64 s: a server that took ten seconds to restart would stay lost for long.
const LONGEST_DELAY_MS = 4000;
const delayAfter = (tries) => Math.min(500 * 2 ** tries, LONGEST_DELAY_MS) * (0.5 + Math.random() / 2);

export function startLive(shown) {
  htmx.config.wsReconnectDelay = delayAfter;
  const lost = document.getElementById("lost");
  let notice;
  document.body.addEventListener("htmx:wsOpen", (event) => {
    wrapper = event.detail.socketWrapper;
    clearTimeout(notice);
    lost.hidden = true;
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
    notice = setTimeout(() => (lost.hidden = wrapper !== null), 1500);
  });
  lost.querySelector("button").addEventListener("click", () => location.reload());
  document.body.addEventListener("htmx:wsBeforeMessage", (event) => {
    if (event.detail.message[0] !== "{") return;
    event.preventDefault();
    const frame = JSON.parse(event.detail.message);
    handlers[frame.type]?.(frame);
  });
}
