// Unsent text is stored in this browser for each chat, so a reload or a broken connection loses nothing.

const PREFIX = "roost.draft.";

function store(key, text) {
  try {
    if (text.trim()) localStorage.setItem(PREFIX + key, text);
    else localStorage.removeItem(PREFIX + key);
  } catch { /* storage is full or forbidden: the page works without drafts */ }
}

export function draft(key) {
  try {
    return localStorage.getItem(PREFIX + key) ?? "";
  } catch {
    return "";
  }
}

export function forget(key) {
  store(key, "");
}

export function keep(area, key) {
  area.addEventListener("input", () => store(typeof key === "function" ? key() : key, area.value));
}

// Sets the height for browsers without `field-sizing: content`.
export function grow(area) {
  if (CSS.supports("field-sizing", "content")) return;
  const fit = () => {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + 2}px`;
  };
  area.addEventListener("input", fit);
  fit();
}

// Enter sends; on a touch screen it starts a new line; Settings can change this. Shift+Enter starts a new line,
// Ctrl+Enter or ⌘+Enter sends.
export function entersLine() {
  const { enter } = document.documentElement.dataset;
  return enter === "line" || (enter !== "send" && matchMedia("(hover: none) and (pointer: coarse)").matches);
}

export function isSendKey(event) {
  if (event.key !== "Enter" || event.shiftKey || isComposing(event)) return false;
  return event.ctrlKey || event.metaKey || !entersLine();
}

// True for the Enter that ends the composition of a Chinese or Japanese word (229: the only sign in Safari).
export function isComposing(event) {
  return event.isComposing || event.keyCode === 229;
}
