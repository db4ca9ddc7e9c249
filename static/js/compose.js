// Compose: pieces are streamed as lines of JSON; they play and appear meanwhile. A piece is its text; text that was
// generated, played or edited is stored in this browser, and changes can be undone.

import { at, lines } from "./base.js";
import { Player, Roll, firstFrom } from "./music.js";

const form = document.getElementById("compose");
const { kind } = form.dataset;
const area = document.getElementById("compose-text");
const textFold = area.closest("details");
const tabs = document.getElementById("pieces");
const said = document.getElementById("said");
const score = document.getElementById("score");
const KEPT = `roost.compose.${kind}`;
const MAX_STEPS = 50;
const STEP_S = 0.008;

let pieces = [emptyPiece()];
let current = 0;
let writing = null;
let steps = []; // texts for undo: [texts of the pieces, current]
let undone = [];
let frame = 0;
let cut = null; // in an ABC tune: position from which it is generated again

function emptyPiece() {
  return { text: "", notes: [], byNumber: new Map(), end: 0, longest: 0, isWriting: false, bar: 2 };
}

const piece = () => pieces[current];
const player = new Player(piece, showTransport);
const roll = new Roll(document.getElementById("roll"), piece, player, {
  seek: (place) => player.seek(place),
  canEdit: () => kind === "midi",
  edited: () => takeNotes(),
  added: (note) => {
    const instrument = piece().notes.at(-1)?.instrument ?? "piano";
    const track = piece().notes.at(-1)?.track ?? 0;
    piece().notes.push({ ...note, number: -1, instrument, track, isSounding: false });
    takeNotes();
  },
  removed: (note) => {
    piece().notes = piece().notes.filter((one) => one !== note);
    takeNotes();
  },
});
Object.assign(window, { roostMusic: { player, roll, piece } }); // for tests

function say(text, isWrong = false) {
  said.textContent = text;
  said.classList.toggle("is-wrong", isWrong);
}

const told = (error) => say(`${error.message} ${error.hint}`, true);

// Notes

function noteOf([number, start, length, pitch, velocity, instrument, track, isSounding]) {
  return { number, start, length, pitch, velocity, instrument, track, isSounding: Boolean(isSounding) };
}

function setNotes(one, rows) {
  one.byNumber = new Map();
  one.notes = [];
  addNotes(one, rows);
}

function addNotes(one, rows, time = 0) {
  for (const row of rows) {
    const note = noteOf(row);
    const known = one.byNumber.get(note.number);
    if (known) Object.assign(known, note);
    else {
      one.byNumber.set(note.number, note);
      one.notes.push(note);
    }
    one.end = Math.max(one.end, note.start + note.length);
    one.longest = Math.max(one.longest, note.isSounding ? 5 : note.length + 0.01);
    one.low = Math.min(one.low ?? note.pitch, note.pitch);
    one.high = Math.max(one.high ?? note.pitch, note.pitch);
  }
  one.end = Math.max(one.end, time);
}

function measured(one) {
  one.notes.sort((a, b) => a.start - b.start);
  one.end = Math.max(0, ...one.notes.map((note) => note.start + note.length));
  one.longest = Math.max(0, ...one.notes.map((note) => note.length + 0.01));
}

async function post(path, body, accept = "application/json", signal = undefined) {
  return fetch(at(`/compose/${path}`), { method: "POST", body, signal, headers: { Accept: accept } });
}

// The notes of a text, a file or notes, as the server parses them.
async function readBack(fields) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  try {
    const answer = await post("read", body);
    const found = await answer.json();
    if (found.error) {
      told(found.error);
      return false;
    }
    const one = { ...emptyPiece(), text: found.text };
    setNotes(one, found.notes);
    measured(one);
    pieces[current] = one;
    cut = null;
    say("");
    show();
    return true;
  } catch {
    say(form.dataset.lost, true);
    return false;
  }
}

const rowsOf = (notes) =>
  JSON.stringify(notes.map((note) => [0, note.start, note.length, note.pitch, note.velocity, note.instrument, note.track]));

async function takeNotes() {
  remember();
  measured(piece());
  await readBack({ notes: rowsOf(piece().notes) });
}

// Undo

const kept = () => [pieces.map((one) => one.text), current];

function remember() {
  steps.push(kept());
  if (steps.length > MAX_STEPS) steps.shift();
  undone = [];
}

function keep() {
  try {
    localStorage.setItem(KEPT, JSON.stringify(kept()));
  } catch { /* storage is full or forbidden */ }
}

async function restore([texts, place]) {
  pieces = texts.map((text) => ({ ...emptyPiece(), text }));
  for (current = 0; current < pieces.length; current += 1) await readBack({ text: texts[current] });
  current = Math.min(place, pieces.length - 1);
  show();
}

async function back(from, to) {
  if (writing || !from.length) return;
  to.push(kept());
  await restore(from.pop());
}

// Generation

const barBegin = () => Math.floor(player.now / piece().bar + 0.001) * piece().bar;

function headOf(from) {
  if (from === "start") return "";
  const { text } = piece();
  if (from !== "here") return text;
  if (kind === "abc") return cut === null ? text : text.slice(0, cut);
  const until = barBegin();
  let time = 0;
  const words = text.split(/\s+/).filter(Boolean);
  const end = words.findIndex((word) => {
    if (time >= until - STEP_S / 2) return true;
    if (/^t\d+$/.test(word)) time += Number(word.slice(1)) * STEP_S;
    return time > until + STEP_S / 2;
  });
  return (end < 0 ? words : words.slice(0, end)).join(" ");
}

function setWriting(controller) {
  writing = controller;
  area.readOnly = Boolean(writing);
  form.toggleAttribute("data-writing", Boolean(writing));
  for (const one of pieces) one.isWriting = Boolean(writing);
}

async function write(from) {
  if (writing) return;
  remember();
  const head = headOf(from);
  const body = new FormData(form);
  body.set("text", head);
  if (from === "here" && kind === "midi") body.set("from_s", barBegin());
  const old = pieces;
  const place = head ? Math.max(0, Math.min(player.now, piece().end)) : 0;
  setWriting(new AbortController());
  say(form.dataset.begins);
  let hasBegun = false;
  try {
    const answer = await post("write", body, "application/x-ndjson", writing.signal);
    if (!answer.ok) told((await answer.json()).error);
    else {
      for await (const line of lines(answer.body)) {
        if (line.head !== undefined) {
          if (!hasBegun) pieces = [];
          pieces[line.piece] = { ...emptyPiece(), bar: barLength(), text: line.head, isWriting: true };
          if (!hasBegun) current = 0;
          hasBegun = true;
          setNotes(pieces[line.piece], []);
        }
        if (line.piece !== undefined) grow(pieces[line.piece], line);
        if (line.piece === current) arrived(line, from === "here" || !head ? place : null);
        if (line.waiting) say(line.waiting);
        if (line.figures) say(line.figures);
        if (line.read !== undefined) form.dataset.read = line.read;
        if (line.error) told(line.error);
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") say(form.dataset.lost, true);
  }
  if (!hasBegun) pieces = old;
  setWriting(null);
  show();
  form.dataset.written = Number(form.dataset.written ?? 0) + 1;
}

function grow(one, line) {
  if (line.text !== undefined) one.text += line.text;
  if (line.all) {
    setNotes(one, line.all);
    measured(one);
  }
  if (line.notes) addNotes(one, line.notes, line.time);
}

// The first notes start to play; the page shows new data once per frame.
function arrived(line, from) {
  if (line.at) roll.came(line.at);
  if (line.head !== undefined) show();
  if (piece().notes.length && !player.isPlaying && !piece().hasSounded && form.elements.sounds.checked && piece().end > (from ?? 0) + 0.3) {
    piece().hasSounded = true;
    player.play(from ?? player.now);
  }
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    if (!player.isPlaying) roll.follow(piece().end);
    if (textFold.open) {
      const isAtEnd = area.scrollHeight - area.scrollTop - area.clientHeight < 60;
      area.value = piece().text;
      if (isAtEnd) area.scrollTop = area.scrollHeight;
    }
    drawScore();
    roll.request();
  });
}

// Display

function barLength() {
  const speed = Number(form.elements.most_bpm?.value);
  return kind === "midi" && speed ? 240 / speed : 2;
}

function show() {
  piece().bar = barLength();
  area.value = piece().text;
  tabs.hidden = pieces.length < 2;
  tabs.replaceChildren(...pieces.map((_, number) => {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.className = "button button-small";
    tab.textContent = form.dataset.piece.replace("{number}", number + 1);
    tab.setAttribute("aria-pressed", String(number === current));
    tab.addEventListener("click", () => {
      current = number;
      cut = null;
      if (player.isPlaying) player.play(Math.min(player.now, piece().end));
      show();
    });
    return tab;
  }));
  form.toggleAttribute("data-empty", !piece().text.trim());
  document.getElementById("undo").disabled = !steps.length;
  document.getElementById("redo").disabled = !undone.length;
  showTransport();
  drawScore();
  roll.request();
  keep();
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

let moving = 0;

function showTransport() {
  form.toggleAttribute("data-playing", player.isPlaying);
  const seek = document.getElementById("seek");
  const shown = document.getElementById("clock");
  const move = () => {
    moving = 0;
    const [most, time] = [piece().end.toFixed(2), `${clock(player.now)} / ${clock(piece().end)}`];
    if (seek.max !== most) seek.max = most;
    if (document.activeElement !== seek || player.isPlaying) seek.value = player.now;
    if (shown.textContent !== time) shown.textContent = time;
    markScore();
    if (player.isPlaying) moving = requestAnimationFrame(move);
  };
  cancelAnimationFrame(moving);
  move();
  roll.request();
}

// The score of an ABC tune, rendered by abcjs, which is loaded with the first one.
let abcjs = null;
let scoreTimer = 0;
let scoreTook = 0; // milliseconds for all of it
const LONG_SCORE_MS = 150; // for a longer score, only the last lines are rendered during generation, and all of it at the end
const LAST_LINES = 8;
const TRAINING_FIELDS = /^[SBE]:.*\n/gm; // numbers from the training of ABC models, not music
const BAR_SIGNS = /[|:\]\d \n]/; // characters that continue a bar line, as in webapp/music/events.py

// Position of the first character in a character's bar: the engine has a state for the text before it.
function barAt(text, place) {
  const line = text.lastIndexOf("\n", place) + 1;
  let begin = text.lastIndexOf("|", place) + 1;
  if (begin <= line) return line;
  while (begin < text.length && BAR_SIGNS.test(text[begin])) begin += 1;
  return begin;
}

function drawScore() {
  if (kind === "abc") score.hidden = !piece().text.trim();
  if (kind !== "abc" || score.hidden || scoreTimer) return;
  scoreTimer = setTimeout(async () => {
    scoreTimer = 0;
    abcjs ??= loaded(form.dataset.abcjs).then(() => window.ABCJS);
    const { renderAbc } = await abcjs;
    const { text } = piece();
    const [key] = /^K:.*\n/m.exec(text) ?? [""];
    const keyEnd = key ? text.indexOf(key) + key.length : 0;
    const fields = text.slice(0, keyEnd).replace(TRAINING_FIELDS, "");
    const head = (/^X:/m.test(fields) ? "" : "X:1\n") + fields;
    const lines = text.slice(keyEnd).split("\n");
    const isWhole = !writing || scoreTook < LONG_SCORE_MS || lines.length <= LAST_LINES;
    const body = (isWhole ? lines : lines.slice(-LAST_LINES)).join("\n");
    const shift = head.length + body.length - text.length;
    const clickListener = (element) => {
      cut = barAt(piece().text, Math.max(0, element.startChar - shift));
      say(form.dataset.chosen);
    };
    const began = performance.now();
    const width = score.clientWidth - 24;
    const narrow = width < 560 && { staffwidth: width, wrap: { minSpacing: 1.4, maxSpacing: 2.6, preferredMeasuresPerLine: 2 } };
    const wanted = { responsive: "resize", add_classes: true, oneSvgPerLine: true, clickListener, ...narrow };
    let tune;
    withStyles(() => { [tune] = renderAbc(score, head + body, wanted); });
    scoreTimes = [];
    if (isWhole) scoreTimes = timesOf(tune);
    markScore();
    if (writing) score.scrollTop = score.scrollHeight;
    if (isWhole) scoreTook = performance.now() - began;
  }, writing ? 250 : 0);
}

// The time of each note in the score. abcjs uses its own tempo, with repeats as we do.
let scoreTimes = []; // { start, nodes }, by their starts
let sounding = null;

function timesOf(tune) {
  const isNote = (event) => event.elements?.flat().some((node) => node.matches(".abcjs-note"));
  const events = tune.setTiming().filter(isNote);
  const scale = (piece().notes.at(-1)?.start ?? 0) / (events.at(-1)?.milliseconds || 1);
  return events.map(({ milliseconds, elements }) => ({ start: milliseconds * scale, nodes: elements.flat() }));
}

// The sounding note, and scrolling to its line.
function markScore() {
  const { now } = player;
  const found = now || player.isPlaying ? scoreTimes[firstFrom(scoreTimes, now + 0.01) - 1] : null;
  if (found === sounding) return;
  for (const node of sounding?.nodes ?? []) node.classList.remove("is-sounding");
  for (const node of found?.nodes ?? []) node.classList.add("is-sounding");
  sounding = found;
  const line = found?.nodes[0]?.closest(".score > div");
  if (!line || !player.isPlaying || writing) return;
  const { offsetTop: top, offsetHeight: height } = line;
  const isInView = top >= score.scrollTop && top + height <= score.scrollTop + score.clientHeight;
  if (!isInView) score.scrollTop = top - 8;
}

// abcjs writes styles as text, which the page's policy forbids; as properties they are allowed. The style element that
// it creates (and searches, to copy it into each line) is for dragging, which is disabled.
function withStyles(draw) {
  const { setAttribute, querySelector } = Element.prototype;
  const { createElementNS } = Document.prototype;
  Element.prototype.setAttribute = function set(name, value) {
    if (name === "style") this.style.cssText = value;
    else setAttribute.call(this, name, value);
  };
  Element.prototype.querySelector = function find(name) {
    return querySelector.call(this, name === "style" ? "metadata" : name);
  };
  document.createElementNS = (space, name) => createElementNS.call(document, space, name === "style" ? "metadata" : name);
  try {
    draw();
  } finally {
    Object.assign(Element.prototype, { setAttribute, querySelector });
    delete document.createElementNS;
  }
}

function loaded(address) {
  return new Promise((done, failed) => {
    const script = document.createElement("script");
    Object.assign(script, { src: address, onload: done, onerror: failed });
    document.head.append(script);
  });
}

// A piano to play the beginning

const KEYS = "awsedftgyhujkolp";
const held = new Map();
let take = null;

function press(pitch, velocity = 90) {
  if (held.has(pitch)) return;
  player.begin();
  player.audio.resume();
  const instrument = form.querySelector("[name=instruments]:checked")?.value ?? "piano";
  const note = { start: 0, length: 0.4, pitch, velocity, instrument, track: 0 };
  player.sound(note);
  held.set(pitch, { note, since: performance.now() });
  document.querySelector(`[data-pitch="${pitch}"]`)?.classList.add("is-down");
  if (take) take.zero ??= performance.now();
}

function release(pitch) {
  const one = held.get(pitch);
  if (!one) return;
  held.delete(pitch);
  document.querySelector(`[data-pitch="${pitch}"]`)?.classList.remove("is-down");
  if (!take) return;
  const start = take.after + (one.since - take.zero) / 1000;
  take.notes.push({ ...one.note, number: -1, start, length: Math.max(0.05, (performance.now() - one.since) / 1000) });
}

function record(button) {
  if (!take) {
    take = { after: piece().end, notes: [], zero: undefined };
  } else {
    const { notes } = take;
    take = null;
    if (notes.length && kind === "abc") {
      remember();
      readBack({ text: piece().text, notes: rowsOf(notes) });
    } else if (notes.length) {
      piece().notes.push(...notes);
      takeNotes();
    }
  }
  button.setAttribute("aria-pressed", String(Boolean(take)));
}

const piano = document.getElementById("piano");
if (piano) {
  piano.addEventListener("pointerdown", (event) => {
    const key = event.target.closest("[data-pitch]");
    if (!key) return;
    key.setPointerCapture(event.pointerId);
    press(Number(key.dataset.pitch));
  });
  for (const name of ["pointerup", "pointercancel"]) {
    piano.addEventListener(name, (event) => release(Number(event.target.closest("[data-pitch]")?.dataset.pitch)));
  }
  document.addEventListener("keydown", (event) => {
    if (!piano.closest("details").open || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches?.("input, textarea, select")) return;
    const place = KEYS.indexOf(event.key.toLowerCase());
    if (place >= 0) press(60 + place);
  });
  document.addEventListener("keyup", (event) => {
    const place = KEYS.indexOf(event.key.toLowerCase());
    if (place >= 0) release(60 + place);
  });
  piano.closest("details").addEventListener("toggle", async () => {
    if (!piano.closest("details").open || !navigator.requestMIDIAccess) return;
    try {
      const access = await navigator.requestMIDIAccess();
      const listen = (input) => {
        input.onmidimessage = ({ data: [status, pitch, velocity] }) => {
          if ((status & 0xf0) === 0x90 && velocity) press(pitch, velocity);
          else if ([0x80, 0x90].includes(status & 0xf0)) release(pitch);
        };
      };
      access.inputs.forEach(listen);
      access.onstatechange = ({ port }) => port.type === "input" && port.state === "connected" && listen(port);
    } catch { /* refused, or none there */ }
  }, { once: true });
}

// Commands

const COMMANDS = {
  write: () => write("start"),
  continue: () => write("end"),
  here: () => write("here"),
  stop: () => writing?.abort(),
  play: () => (player.isPlaying ? player.pause() : player.play(player.place >= piece().end ? 0 : player.place)),
  start: () => player.seek(0),
  undo: () => back(steps, undone),
  redo: () => back(undone, steps),
  record: (button) => record(button),
  loop: (button) => {
    player.isLoop = !player.isLoop;
    button.setAttribute("aria-pressed", String(player.isLoop));
  },
};

form.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (!button) return;
  event.preventDefault();
  COMMANDS[button.dataset.do](button);
});
form.addEventListener("submit", (event) => {
  if (event.submitter?.hasAttribute("formaction")) { // for a file or a state
    if (!textFold.open) area.value = piece().text; // an open one may have text that is not processed yet
    return;
  }
  event.preventDefault();
  COMMANDS.write();
});
document.getElementById("seek").addEventListener("input", (event) => player.seek(Number(event.target.value)));
document.getElementById("volume").addEventListener("input", (event) => player.setVolume(Number(event.target.value)));
form.elements.most_bpm?.addEventListener("input", () => show());

textFold.addEventListener("toggle", () => {
  area.value = piece().text;
});
area.addEventListener("change", async () => {
  if (writing || area.value === piece().text) return;
  remember();
  const typed = area.value;
  if (!(await readBack({ text: typed }))) {
    piece().text = typed; // an error is shown, and the text stays to be corrected
    keep();
  }
});

async function takeFile(file) {
  if (!file || writing) return;
  remember();
  await readBack({ file });
}

document.getElementById("seed-file").addEventListener("change", (event) => {
  takeFile(event.target.files[0]);
  event.target.value = "";
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  takeFile(event.dataTransfer.files[0]);
});

try {
  const left = JSON.parse(localStorage.getItem(KEPT));
  if (!area.value && left?.[0]?.some((text) => text)) await restore(left);
  else if (area.value) await readBack({ text: area.value });
} catch { /* nothing is kept */ }
show();
form.dataset.ready = "1";
