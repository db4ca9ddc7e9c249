// Scrolling: the page follows the text only while the user is at its end.

const NEAR = 48;
const scroller = document.getElementById("scroller");
const jump = document.getElementById("jump");
const dock = document.getElementById("dock");
const INPUT_MS = 1000;
const FAR = 200;
const SCROLL_KEYS = new Set(["ArrowUp", "PageUp", "Home", " "]);
let isFollowing = true;
let lastTop = 0;
let lastInput = -INPUT_MS;
let isPressed = false;

function distance() {
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
}

export function toEnd() {
  isFollowing = true;
  scroller.scrollTop = scroller.scrollHeight;
  jump.hidden = true;
}

// An empty chat starts at the top.
const isWelcome = () => Boolean(document.querySelector("#welcome:not([hidden])"));

// The space above the composer, whatever its height.
function placeToasts() {
  const spot = dock.getBoundingClientRect();
  const toasts = document.getElementById("toasts");
  toasts.style.bottom = `${innerHeight - spot.top + 8}px`;
  toasts.style.left = `${spot.left + spot.width / 2}px`;
}

// Text that becomes shorter for a moment, as at the end of an answer, also moves the page up; that is not the user.
function isReaders(pixels) {
  return isPressed || pixels > FAR || performance.now() - lastInput < INPUT_MS;
}

export function startScrolling() {
  for (const kind of ["wheel", "touchmove", "keydown"]) {
    document.addEventListener(kind, (event) => {
      if (kind !== "keydown" || SCROLL_KEYS.has(event.key)) lastInput = performance.now();
    }, { capture: true, passive: true });
  }
  scroller.addEventListener("pointerdown", () => { isPressed = true; });
  document.addEventListener("pointerup", () => { isPressed = false; }, { capture: true });
  scroller.addEventListener("scroll", () => {
    const up = lastTop - scroller.scrollTop;
    const isUpward = up > 1;
    lastTop = scroller.scrollTop;
    if (isUpward && distance() > 4 && isReaders(up)) isFollowing = false;
    if (distance() <= 4 || (!isUpward && distance() < NEAR)) isFollowing = true;
    jump.hidden = isFollowing || isWelcome() || distance() < NEAR;
  }, { passive: true });
  jump.addEventListener("click", toEnd);
  const grown = new ResizeObserver(() => {
    if (isFollowing && !isWelcome()) scroller.scrollTop = scroller.scrollHeight;
    else jump.hidden = isWelcome() || distance() < NEAR;
    placeToasts();
  });
  grown.observe(document.getElementById("messages").parentElement);
  grown.observe(dock);
  grown.observe(scroller);
  // Earlier messages are inserted above: keep the visible text in place.
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target.id !== "older") return;
    const from = distance();
    isFollowing = false;
    document.body.addEventListener("htmx:afterSettle", () => {
      scroller.scrollTop = scroller.scrollHeight - scroller.clientHeight - from;
    }, { once: true });
  });
  if (location.hash.startsWith("#m-") && document.querySelector(CSS.escape(location.hash.slice(1)) && location.hash)) {
    isFollowing = false;
    document.querySelector(location.hash).scrollIntoView({ block: "center" });
  } else if (isWelcome()) isFollowing = false;
  else toEnd();
}
