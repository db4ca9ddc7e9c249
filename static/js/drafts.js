// What is typed and not sent yet is kept in this browser, by chat; nothing is lost by a reload or a broken connection.

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

// Browsers without `field-sizing: content` get the height by script.
export function grow(area) {
  if (CSS.supports("field-sizing", "content")) return;
  const fit = () => {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + 2}px`;
  };
  area.addEventListener("input", fit);
  fit();
}

// Enter sends, or makes a line where a finger types; the Settings page says otherwise. With Shift it makes a line, with
// Ctrl or ⌘ it sends.
export function entersLine() {
  const { enter } = document.documentElement.dataset;
  return enter === "line" || (enter !== "send" && matchMedia("(hover: none) and (pointer: coarse)").matches);
}

export function isSendKey(event) {
  if (event.key !== "Enter" || event.shiftKey || isComposing(event)) return false;
  return event.ctrlKey || event.metaKey || !entersLine();
}

// True for the Enter that ends the composition of a Chinese or Japanese word (229: Safari tells it only so).
export function isComposing(event) {
  return event.isComposing || event.keyCode === 229;
}
