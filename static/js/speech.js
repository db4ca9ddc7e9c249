// Speech, if the browser supports it: dictation into the composer, and answers read aloud. Loaded when used.

const AGREED = "roost.voice";
const PIECE_CHARS = 180; // some voices of Chrome stop after fifteen seconds of one piece

// Dictation. The browser may convert the sound to text on its maker's servers; the user is told before the first use.
const said = document.getElementById("voice-said");
let listening = null;

function tell(key, words = "") {
  said.hidden = !key;
  said.textContent = key ? `${said.dataset[key]} ${words}`.trim() : "";
}

function hasAgreed() {
  try {
    return localStorage.getItem(AGREED) === "1";
  } catch {
    return false;
  }
}

export function toggleDictation(button, area) {
  if (listening) return listening.stop();
  if (hasAgreed()) return dictate(button, area);
  const note = document.getElementById("voice-note");
  note.showPopover();
  const start = note.querySelector("[data-voice-start]");
  start.focus();
  start.onclick = () => {
    try {
      localStorage.setItem(AGREED, "1");
    } catch { /* asked again next time */ }
    note.hidePopover();
    dictate(button, area);
  };
}

function dictate(button, area) {
  const recognition = new (window.SpeechRecognition ?? window.webkitSpeechRecognition)();
  const page = document.documentElement.lang;
  recognition.lang = navigator.languages.find((name) => name.split("-")[0] === page.split("-")[0]) ?? page;
  recognition.continuous = true;
  recognition.interimResults = true;
  let failure = "";
  recognition.onresult = (event) => {
    let heard = "";
    for (const result of [...event.results].slice(event.resultIndex)) {
      if (result.isFinal) insert(area, result[0].transcript.trim());
      else heard += result[0].transcript;
    }
    tell("listening", heard);
  };
  recognition.onerror = ({ error }) => {
    if (["not-allowed", "service-not-allowed", "audio-capture"].includes(error)) failure = "denied";
    else if (error !== "aborted" && error !== "no-speech") failure = "failed";
  };
  recognition.onend = () => {
    listening = null;
    button.setAttribute("aria-pressed", "false");
    tell(failure);
    removeEventListener("pagehide", abort);
    area.form.removeEventListener("submit", abort);
  };
  const abort = () => recognition.abort();
  addEventListener("pagehide", abort);
  area.form.addEventListener("submit", abort); // later text belongs to no message
  listening = recognition;
  button.setAttribute("aria-pressed", "true");
  tell("listening");
  recognition.start();
}

// Inserts at the cursor, with a space between words in scripts that have spaces.
function insert(area, text) {
  const before = area.value.slice(0, area.selectionStart);
  const isJoined = /[\p{L}\p{N}.,!?;:]$/u.test(before) && !/[\u3000-\u9fff\uff00-\uffef]$/.test(before);
  area.setRangeText((isJoined ? " " : "") + text, area.selectionStart, area.selectionEnd, "end");
  area.dispatchEvent(new Event("input", { bubbles: true }));
}

// Reading aloud
const voices = window.speechSynthesis;
let spoken = ""; // id of the element that is being read

const buttonOf = (id) => document.getElementById(id)?.querySelector("[data-speak]");

export function stopReading() {
  const id = spoken;
  spoken = "";
  buttonOf(id)?.setAttribute("aria-pressed", "false");
  voices.cancel();
}

export function toggleReading(answer) {
  const id = answer.closest("[id^=m-]").id;
  const wasRead = spoken === id;
  stopReading();
  const whole = wasRead ? "" : textOf(answer);
  const pieces = piecesOf(whole);
  if (!pieces.length) return;
  spoken = id;
  buttonOf(id)?.setAttribute("aria-pressed", "true");
  for (const [index, text] of pieces.entries()) {
    const utterance = new SpeechSynthesisUtterance(text);
    utterance.lang = languageOf(text, whole);
    utterance.voice = voiceFor(utterance.lang);
    const isLast = index === pieces.length - 1;
    utterance.onerror = () => spoken === id && stopReading();
    if (isLast) utterance.onend = () => spoken === id && stopReading();
    voices.speak(utterance);
  }
}
for (const leaving of ["pagehide", "popstate"]) addEventListener(leaving, () => spoken && stopReading());

// The text of an answer, without code, formulas and buttons.
function textOf(answer) {
  const copy = document.createElement("div");
  copy.className = "unseen prose";
  copy.append(...[...answer.querySelectorAll(":scope > .prose > *")].map((part) => part.cloneNode(true)));
  for (const part of copy.querySelectorAll("pre, button, math")) part.remove();
  document.body.append(copy); // innerText has line breaks only where there is a layout
  const text = copy.innerText;
  copy.remove();
  return text;
}

function piecesOf(text) {
  const found = [];
  for (const sentence of text.split(/(?<=[。！？；…])|(?<=[.!?;])\s|\n+/u)) {
    let rest = sentence.trim();
    while (rest.length > PIECE_CHARS) {
      const part = rest.slice(0, PIECE_CHARS);
      const at = Math.max(...[..."，、：, "].map((sign) => part.lastIndexOf(sign)));
      found.push(rest.slice(0, at > 40 ? at + 1 : PIECE_CHARS));
      rest = rest.slice(found.at(-1).length).trim();
    }
    if (/[\p{L}\p{N}]/u.test(rest)) found.push(rest);
  }
  return found;
}

// Detects the language by the script of a tenth of the letters (a Chinese voice also reads English words, but not the
// reverse); for Latin letters, by the most frequent words of the whole answer.
const SCRIPTS = [["ja", /[\p{Script=Hiragana}\p{Script=Katakana}]/gu], ["ko", /\p{Script=Hangul}/gu], ["zh-CN", /\p{Script=Han}/gu], ["ru", /\p{Script=Cyrillic}/gu]];

const WORDS = { en: "the and of is to in it that you are", de: "der die und das ist nicht ein zu mit den", fr: "le la les et est des une que dans pour", es: "el los que es una por con para las se", it: "il di che è per una sono non gli nel", pt: "o os que é uma não com para em do" };

function languageOf(piece, whole) {
  const letters = piece.match(/\p{L}/gu)?.length ?? 0;
  const found = SCRIPTS.find(([, letter]) => (piece.match(letter)?.length ?? 0) > letters * 0.1);
  if (found) return found[0];
  const words = whole.toLowerCase().match(/\p{L}+/gu) ?? [];
  const counts = Object.entries(WORDS).map(([lang, known]) => [words.filter((word) => known.split(" ").includes(word)).length, lang]);
  const [count, lang] = counts.reduce((best, next) => (next[0] > best[0] ? next : best));
  return count ? lang : "en";
}

// Prefers a voice on this machine to one that sends the text away.
function voiceFor(lang) {
  const own = voices.getVoices().filter((voice) => voice.lang.replace("_", "-").split("-")[0] === lang.split("-")[0]);
  const exact = own.filter((voice) => voice.lang.replace("_", "-") === lang);
  return [...exact, ...own].find((voice) => voice.localService) ?? exact[0] ?? own[0] ?? null;
}
