// Transport of frames: by WebSocket and, if its handshake fails, by requests (POST /chat/poll) that look like a socket
// to htmx' extension, until a WebSocket works again. The extension decides when to retry; each failure tries the other
// transport.

const HANDSHAKE_MS = 3000;
const ANSWER_MS = 15_000; // for a request; the server waits up to a second
const BETWEEN_MS = 100;
const MAX_FRAMES = 100;
const HIDDEN_MS = 3000;
const FIRST_LOOK_MS = 5000;
const LOOK_MS = 30_000;

let isPollingNext = false;
let current = null;

// The protocol of polled pages; see webapp/web/chat/polling.py.
class PolledSocket extends EventTarget {
  CONNECTING = 0;
  OPEN = 1;
  CLOSED = 3;
  readyState = 0;
  #page = "";
  #seen = 0;
  #number = 0;
  #unsaid = [];
  #wake = () => {};

  constructor(url, told) {
    super();
    this.url = url;
    this.told = told;
    setTimeout(() => this.#listen());
  }

  get isIdle() {
    return !this.#unsaid.length;
  }

  send(text) {
    this.#unsaid.push([++this.#number, text]);
    this.#wake();
    this.#ask().catch(() => {}); // in addition to the waiting request; if it fails, the other one repeats it
  }

  close(code = 1000) {
    if (this.readyState === this.CLOSED) return;
    this.readyState = this.CLOSED;
    this.#wake();
    this.#tell(new CloseEvent("close", { code }));
  }

  #tell(event) {
    this[`on${event.type}`]?.(event);
    this.dispatchEvent(event);
  }

  async #listen() {
    while (this.readyState !== this.CLOSED) {
      try {
        await this.#ask();
      } catch (error) {
        if (error.refusal) this.told(error.refusal);
        isPollingNext = false;
        this.close(1006);
        return;
      }
      await new Promise((done) => {
        this.#wake = done;
        setTimeout(done, document.hidden ? HIDDEN_MS : BETWEEN_MS);
      });
    }
  }

  async #ask() {
    const body = JSON.stringify({ page: this.#page, seen: this.#seen, frames: this.#unsaid.slice(0, MAX_FRAMES) });
    const headers = { "Content-Type": "application/json", Accept: "application/json" };
    const answer = await fetch(this.url, { method: "POST", headers, body, signal: AbortSignal.timeout(ANSWER_MS) });
    if (!answer.ok) {
      const said = await answer.json().catch(() => ({}));
      throw Object.assign(new Error(answer.statusText), { refusal: answer.status < 500 ? said.error?.message : "" });
    }
    this.#take(await answer.json());
  }

  #take(said) {
    if (this.readyState === this.CLOSED) return;
    if (!said.page || (this.#page && said.page !== this.#page)) return this.close(1012);
    this.#page = said.page;
    this.#unsaid = this.#unsaid.filter(([number]) => number > said.taken);
    if (this.readyState === this.CONNECTING) {
      this.readyState = this.OPEN;
      this.#tell(new Event("open"));
    }
    for (const [number, data] of said.frames) {
      if (number <= this.#seen) continue;
      this.#seen = number;
      this.#tell(new MessageEvent("message", { data }));
    }
  }
}

function webSocket(url) {
  const socket = new WebSocket(url);
  const timer = setTimeout(() => socket.readyState === socket.CONNECTING && socket.close(), HANDSHAKE_MS);
  let wasOpen = false;
  socket.addEventListener("open", () => {
    clearTimeout(timer);
    wasOpen = true;
  });
  socket.addEventListener("close", () => {
    clearTimeout(timer);
    isPollingNext = !wasOpen;
  });
  return socket;
}

// During polling: checks whether a WebSocket works now.
function lookForSocket(url, after = FIRST_LOOK_MS) {
  const polled = current;
  setTimeout(() => {
    if (polled !== current || polled.readyState === polled.CLOSED) return;
    if (document.hidden || !polled.isIdle) return lookForSocket(url, FIRST_LOOK_MS);
    const probe = new WebSocket(url);
    const give = setTimeout(() => probe.close(), HANDSHAKE_MS);
    probe.onopen = () => {
      probe.close();
      isPollingNext = false;
      if (polled === current) polled.close(1012); // the extension reconnects with a WebSocket
    };
    probe.onclose = () => {
      clearTimeout(give);
      if (polled === current && polled.readyState !== polled.CLOSED) lookForSocket(url, LOOK_MS);
    };
  }, after);
}

// ``told(text)``: why the server refuses this page.
export function startTransport(pollUrl, told) {
  htmx.createWebSocket = (url) => {
    if (!isPollingNext) return (current = webSocket(url));
    current = new PolledSocket(pollUrl, told);
    current.addEventListener("open", () => lookForSocket(url), { once: true });
    return current;
  };
}

export function isPolling() {
  return current instanceof PolledSocket && current.readyState === current.OPEN;
}

// A silent WebSocket may seem open for minutes; it is closed, and the extension reconnects.
export function giveUp() {
  const silent = current;
  if (silent instanceof PolledSocket) return silent.close(1006);
  silent.onclose?.(new CloseEvent("close", { code: 1006 }));
  silent.onclose = silent.onmessage = null;
  return silent.close();
}
