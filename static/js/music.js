// Sound and display of a piece: a small synthesiser on WebAudio, and a piano roll on a canvas. A note is { number,
// start, length, pitch, velocity, instrument, track, isSounding }, with times in seconds.

// Wave, seconds of attack and release, decay while it sounds (0: none), loudness.
const VOICES = {
  piano: ["triangle", 0.004, 0.12, 2.2, 0.5], marimba: ["sine", 0.002, 0.08, 6, 0.6], guitar: ["sawtooth", 0.004, 0.1, 3, 0.22],
  bass: ["triangle", 0.006, 0.08, 2, 0.6], violin: ["sawtooth", 0.07, 0.15, 0, 0.16], trumpet: ["sawtooth", 0.03, 0.1, 0, 0.18],
  tuba: ["triangle", 0.04, 0.1, 0, 0.5], sax: ["square", 0.03, 0.1, 0, 0.13], flute: ["sine", 0.05, 0.12, 0, 0.4],
  lead: ["square", 0.01, 0.1, 0, 0.12], pad: ["triangle", 0.25, 0.5, 0, 0.3],
};
const DRUMS = new Set(["percussion", "drum"]);
const LOOKAHEAD_S = 0.35;
const TICK_MS = 60;
const OPEN_END_S = 1.5; // length of a note without an end that is due

export class Player {
  // `piece()` has `notes` in order of their starts, `end` (seconds) and `isWriting`.
  constructor(piece, onChange) {
    this.piece = piece;
    this.onChange = onChange;
    this.isPlaying = false;
    this.isLoop = false;
    this.place = 0; // position in seconds while paused
    this.volume = 0.8;
    this.voices = new Set();
  }

  begin() {
    if (this.audio) return;
    this.audio = new AudioContext();
    this.master = new GainNode(this.audio, { gain: this.volume });
    this.meter = new AnalyserNode(this.audio, { fftSize: 2048 });
    this.master.connect(new DynamicsCompressorNode(this.audio)).connect(this.meter).connect(this.audio.destination);
    const noise = this.audio.createBuffer(1, this.audio.sampleRate / 2, this.audio.sampleRate);
    const samples = noise.getChannelData(0);
    for (let i = 0; i < samples.length; i += 1) samples[i] = Math.random() * 2 - 1;
    this.noise = noise;
  }

  get now() {
    if (!this.isPlaying) return this.place;
    return Math.min(Math.max(0, this.audio.currentTime - this.zero), this.piece().end);
  }

  // The loudest recent sample, 0 to 1.
  get level() {
    if (!this.meter) return 0;
    const samples = new Float32Array(this.meter.fftSize);
    this.meter.getFloatTimeDomainData(samples);
    return samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
  }

  setVolume(volume) {
    this.volume = volume;
    if (this.master) this.master.gain.setTargetAtTime(volume, this.audio.currentTime, 0.02);
  }

  async play(from = this.place) {
    this.begin();
    const call = (this.call = {});
    await this.audio.resume();
    if (this.call !== call) return; // paused or moved meanwhile
    this.hush();
    this.isPlaying = true;
    this.place = from;
    this.#from(from);
    this.timer = setInterval(() => this.#tick(), TICK_MS);
    this.#tick();
    this.onChange();
  }

  pause() {
    this.call = null;
    this.place = this.now;
    this.hush();
    this.isPlaying = false;
    this.onChange();
  }

  seek(place) {
    this.place = Math.max(0, place);
    if (this.isPlaying) this.play(this.place);
    else this.onChange();
  }

  hush() {
    clearInterval(this.timer);
    for (const voice of this.voices) voice.stop();
    this.voices.clear();
  }

  #from(place) {
    this.zero = this.audio.currentTime + 0.05 - place;
    this.due = place;
  }

  // Plays notes that are due soon. During generation it stops at the end of the available notes.
  #tick() {
    const { notes, end, isWriting } = this.piece();
    const here = this.audio.currentTime - this.zero;
    if (isWriting && here > end - LOOKAHEAD_S) {
      this.#from(Math.max(0, Math.min(here, end - LOOKAHEAD_S)));
      this.due = Math.max(this.due, here);
    } else if (!isWriting && here >= end) {
      if (this.isLoop && end > 0) this.#from(0);
      else {
        this.pause();
        this.place = 0;
        this.onChange();
        return;
      }
    }
    const until = this.audio.currentTime - this.zero + LOOKAHEAD_S;
    for (let i = firstFrom(notes, this.due); i < notes.length && notes[i].start < until; i += 1) {
      const note = notes[i];
      this.sound(note, this.zero + note.start, note.isSounding ? Math.max(note.length, OPEN_END_S) : note.length);
    }
    this.due = Math.max(this.due, until);
  }

  // Plays one note at a time of the audio clock.
  sound(note, at = this.audio.currentTime, length = note.length) {
    const start = Math.max(at, this.audio.currentTime);
    const loudness = (note.velocity / 127) ** 1.4;
    if (DRUMS.has(note.instrument)) return this.#drum(note.pitch, start, loudness);
    const [wave, attack, release, fade, level] = VOICES[note.instrument] ?? VOICES.piano;
    const end = start + Math.max(length, attack + 0.02);
    const tone = new OscillatorNode(this.audio, { type: wave, frequency: 440 * 2 ** ((note.pitch - 69) / 12) });
    const gain = new GainNode(this.audio, { gain: 0 });
    const filter = new BiquadFilterNode(this.audio, { type: "lowpass", frequency: Math.min(9000, tone.frequency.value * 6 + 800) });
    gain.gain.setValueAtTime(0, start);
    gain.gain.linearRampToValueAtTime(level * loudness, start + attack);
    if (fade) gain.gain.setTargetAtTime(0, start + attack, 1 / fade);
    gain.gain.setTargetAtTime(0, end, release / 3);
    tone.connect(filter).connect(gain).connect(this.master);
    tone.start(start);
    tone.stop(end + release * 2);
    this.#keep(tone, gain);
  }

  #drum(pitch, start, loudness) {
    const isLow = pitch < 37 || pitch === 41 || pitch === 43 || pitch === 45;
    const length = isLow ? 0.18 : pitch >= 49 ? 0.6 : pitch >= 42 ? 0.08 : 0.16;
    const gain = new GainNode(this.audio, { gain: 0 });
    gain.gain.setValueAtTime((isLow ? 0.9 : 0.35) * loudness, start);
    gain.gain.exponentialRampToValueAtTime(0.001, start + length);
    let source;
    if (isLow) {
      source = new OscillatorNode(this.audio, { type: "sine", frequency: 120 });
      source.frequency.setValueAtTime(120, start);
      source.frequency.exponentialRampToValueAtTime(45, start + 0.1);
      source.connect(gain);
    } else {
      source = new AudioBufferSourceNode(this.audio, { buffer: this.noise, loop: true });
      const filter = new BiquadFilterNode(this.audio, { type: "highpass", frequency: pitch >= 42 ? 6000 : 1500 });
      source.connect(filter).connect(gain);
    }
    gain.connect(this.master);
    source.start(start);
    source.stop(start + length);
    this.#keep(source, gain);
  }

  #keep(source, gain) {
    const voice = { stop: () => { gain.disconnect(); source.stop(); } };
    this.voices.add(voice);
    source.onended = () => this.voices.delete(voice);
  }
}

// The first note that starts at this time or later.
export function firstFrom(notes, time) {
  let low = 0;
  let high = notes.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (notes[middle].start < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

const RULER = 22;
const FEWEST_ROWS = 36;
const EDGE = 7; // width in pixels of the handle at a note's end

// Draws only the visible part, so a piece of any length scrolls equally fast. `host`: an element that scrolls sideways.
export class Roll {
  constructor(host, piece, player, callbacks) {
    this.host = host;
    this.piece = piece;
    this.player = player;
    this.callbacks = callbacks; // edited(notes), seek(seconds), barOf(seconds)
    this.canvas = host.querySelector("canvas");
    this.spacer = host.querySelector(".roll-length");
    this.scale = 90; // pixels per second
    this.selected = null;
    this.latencies = [];
    this.drawn = 0;
    host.addEventListener("scroll", () => this.request(), { passive: true });
    new ResizeObserver(() => this.fit()).observe(host);
    const repaint = () => {
      this.theme = null;
      this.request();
    };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    this.#edit();
    this.fit();
  }

  fit() {
    const ratio = devicePixelRatio || 1;
    this.width = this.host.clientWidth;
    this.height = this.host.clientHeight - 1;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.canvas.style.width = `${this.width}px`;
    this.canvas.style.height = `${this.height}px`;
    this.request();
  }

  request() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
      if (this.player.isPlaying) this.request();
    });
  }

  x(seconds) {
    return seconds * this.scale - this.host.scrollLeft;
  }

  y(pitch) {
    return RULER + (this.highest - pitch) * this.row;
  }

  pitchAt(y) {
    return this.highest - Math.floor((y - RULER) / this.row);
  }

  // The range of pitches in the piece with a margin, so that all are visible.
  #range() {
    const { low = 48, high = 84 } = this.piece();
    const spare = Math.max(6, FEWEST_ROWS - (high - low + 1));
    this.highest = Math.min(127, high + Math.ceil(spare / 2));
    this.lowest = Math.max(0, this.highest - (high - low) - spare);
    this.row = (this.height - RULER) / (this.highest - this.lowest + 1);
  }

  // Keeps a position visible: that of the sounding note, or of the last generated one.
  follow(seconds) {
    const x = this.x(seconds);
    if (x > this.width * 0.75 || x < 0) this.host.scrollLeft = Math.max(0, seconds * this.scale - this.width * 0.25);
  }

  // The page's colours, read once, because reading computes the styles of the whole page.
  #theme() {
    const probe = this.host.querySelector(".roll-probe");
    const names = { ground: "raised", ink: "ink", line: "line", strong: "line-strong", soft: "ink-soft", keys: "side", accent: "accent" };
    const found = {};
    for (const [name, variable] of Object.entries(names)) {
      probe.style.color = `var(--${variable})`;
      found[name] = getComputedStyle(probe).color;
    }
    const isDark = Number(/\d+/.exec(found.ink)) > 128;
    found.voices = HUES.map((hue) => `hsl(${hue} 55% ${isDark ? 62 : 40}%)`);
    return found;
  }

  draw() {
    const { notes, end, bar, longest } = this.piece();
    this.#range();
    this.theme ??= this.#theme();
    const { ground, ink, line, strong, soft, keys, accent } = this.theme;
    const breadth = Math.ceil((end + 4) * this.scale);
    if (breadth !== this.breadth) this.spacer.style.width = `${breadth}px`;
    this.breadth = breadth;
    if (this.player.isPlaying) this.follow(this.player.now);
    const pen = this.canvas.getContext("2d");
    const ratio = this.canvas.width / Math.max(1, this.width);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = ground;
    pen.fillRect(0, 0, this.width, this.height);
    pen.fillStyle = keys;
    for (let pitch = this.lowest; pitch <= this.highest; pitch += 1) {
      if ([1, 3, 6, 8, 10].includes(pitch % 12)) pen.fillRect(0, this.y(pitch), this.width, this.row);
    }
    const from = this.host.scrollLeft / this.scale;
    const to = from + this.width / this.scale;
    pen.font = "11px sans-serif";
    for (let number = Math.floor(from / bar); number * bar <= to; number += 1) {
      const x = Math.round(this.x(number * bar)) + 0.5;
      pen.strokeStyle = line;
      pen.beginPath();
      pen.moveTo(x, RULER);
      pen.lineTo(x, this.height);
      pen.stroke();
      pen.fillStyle = soft;
      if (bar * this.scale > 34 || number % 4 === 0) pen.fillText(String(number + 1), x + 4, 15);
    }
    pen.strokeStyle = strong;
    pen.strokeRect(-1, RULER - 0.5, this.width + 2, 0.5);
    for (let i = firstFrom(notes, from - longest); i < notes.length && notes[i].start <= to; i += 1) {
      const note = notes[i];
      const length = note.isSounding ? Math.max(end - note.start, 0.05) : note.length;
      if (note.start + length < from) continue;
      pen.fillStyle = this.theme.voices[note.track % HUES.length];
      pen.globalAlpha = 0.45 + 0.55 * (note.velocity / 127);
      const width = Math.max(2, length * this.scale - 1);
      pen.fillRect(this.x(note.start), this.y(note.pitch) + 0.5, width, this.row - 1);
      if (note === this.selected) {
        pen.globalAlpha = 1;
        pen.strokeStyle = ink;
        pen.strokeRect(this.x(note.start) - 1, this.y(note.pitch) - 0.5, width + 2, this.row + 1);
      }
    }
    pen.globalAlpha = 1;
    const x = this.x(this.player.now);
    pen.fillStyle = accent;
    pen.fillRect(x - 1, 0, 2, this.height);
    this.drawn += 1;
    for (const at of this.arrived ?? []) this.latencies.push(Date.now() - 1000 * at);
    if (this.latencies.length > 500) this.latencies.splice(0, this.latencies.length - 500);
    this.arrived = [];
  }

  // Notes have arrived, at a time of the server's clock.
  came(at) {
    (this.arrived ??= []).push(at);
    this.request();
  }

  noteAt(x, y) {
    const { notes, longest } = this.piece();
    const time = (x + this.host.scrollLeft) / this.scale;
    const pitch = this.pitchAt(y);
    for (let i = firstFrom(notes, time - longest); i < notes.length && notes[i].start <= time; i += 1) {
      const note = notes[i];
      if (note.pitch === pitch && time <= note.start + Math.max(note.length, 4 / this.scale)) return note;
    }
    return null;
  }

  // Dragging a note's body changes its pitch or time, dragging its end its length; the ruler seeks.
  #edit() {
    let held = null;
    const place = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      const [x, y] = place(event);
      if (y < RULER) {
        this.callbacks.seek(Math.max(0, (x + this.host.scrollLeft) / this.scale));
        return;
      }
      this.selected = this.noteAt(x, y);
      this.request();
      if (!this.selected || this.piece().isWriting || !this.callbacks.canEdit()) return;
      const note = this.selected;
      held = { x, y, note, before: { ...note }, isEnd: this.x(note.start + note.length) - x < EDGE && note.length * this.scale > 2 * EDGE };
      this.canvas.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!held) return;
      const [x, y] = place(event);
      const { note, before } = held;
      const seconds = (x - held.x) / this.scale;
      if (held.isEnd) note.length = Math.max(0.02, before.length + seconds);
      else {
        note.start = Math.max(0, before.start + seconds);
        note.pitch = Math.min(this.highest, Math.max(this.lowest, before.pitch - Math.round((y - held.y) / this.row)));
      }
      held.hasMoved = true;
      this.request();
    });
    const drop = () => {
      if (held?.hasMoved) this.callbacks.edited();
      held = null;
    };
    this.canvas.addEventListener("pointerup", drop);
    this.canvas.addEventListener("pointercancel", drop);
    this.canvas.addEventListener("dblclick", (event) => {
      const [x, y] = place(event);
      if (y < RULER || !this.callbacks.canEdit() || this.piece().isWriting || this.noteAt(x, y)) return;
      const start = (x + this.host.scrollLeft) / this.scale;
      this.callbacks.added({ start, length: 0.25, pitch: this.pitchAt(y), velocity: 90 });
    });
    this.host.addEventListener("keydown", (event) => {
      if (!["Delete", "Backspace"].includes(event.key) || !this.selected || !this.callbacks.canEdit()) return;
      event.preventDefault();
      this.callbacks.removed(this.selected);
      this.selected = null;
    });
  }
}

const HUES = [174, 28, 262, 340, 205, 95, 48, 300, 140, 0, 230, 70, 320];
