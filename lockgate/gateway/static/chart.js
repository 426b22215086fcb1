// The running risk line against the threshold: one SVG, drawn for one answer at a time.

import { describeScore, format } from "./risk.js";

const SVG = "http://www.w3.org/2000/svg";
const PAD = { top: 10, right: 12, bottom: 10, left: 12 };
const FEWEST_COLUMNS = 48; // a short answer should not fill the whole width
const ROOM_BELOW = 5; // the chart shows at least this many logits below the threshold, and above it
const ROOM_ABOVE = 1.5;

export class RiskChart {
  #svg;
  #parts = {};
  #series = null;
  #selected = null;
  #size = { width: 300, height: 160 };
  #scheduled = false;
  #onSelect;

  /** `onSelect(index or null)` is called when the reader picks a token on the line. */
  constructor(svg, onSelect) {
    this.#svg = svg;
    this.#onSelect = onSelect;
    this.#build();
    new ResizeObserver(([entry]) => {
      this.#size = { width: entry.contentRect.width, height: entry.contentRect.height };
      this.refresh();
    }).observe(svg);
    svg.addEventListener("pointermove", (event) => this.#pick(this.#indexAt(event)));
    svg.addEventListener("pointerdown", (event) => this.#pick(this.#indexAt(event)));
    svg.addEventListener("pointerleave", () => this.#pick(null));
    svg.addEventListener("blur", () => this.#pick(null));
    svg.addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** `series`: {scores, texts, threshold, halted}. The caller may add to it and call `refresh`. */
  show(series) {
    this.#series = series;
    this.#selected = null;
    this.refresh();
  }

  select(index) {
    this.#selected = index;
    this.refresh();
  }

  refresh() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#draw();
    });
  }

  #build() {
    const add = (name, tag, parent = this.#svg) => {
      const part = document.createElementNS(SVG, tag);
      part.setAttribute("class", `chart-${name}`);
      parent.append(part);
      this.#parts[name] = part;
      return part;
    };
    const clip = add("clip", "clipPath");
    clip.id = "above-threshold";
    add("above", "rect", clip);
    add("zone", "rect");
    add("area", "path");
    add("threshold", "line");
    add("label", "text");
    add("line", "path");
    add("over", "path").setAttribute("clip-path", "url(#above-threshold)");
    add("cursor", "line");
    add("halt", "path");
    add("dot", "circle").setAttribute("r", 4);
  }

  #scale() {
    const { scores, threshold } = this.#series;
    const known = scores.filter((score) => score !== null);
    const anchor = threshold ?? Math.max(0, ...known);
    const low = Math.min(anchor - ROOM_BELOW, ...known);
    const high = Math.max(anchor + ROOM_ABOVE, ...known);
    const inner = {
      width: this.#size.width - PAD.left - PAD.right,
      height: this.#size.height - PAD.top - PAD.bottom,
    };
    const columns = Math.max(FEWEST_COLUMNS, scores.length) - 1;
    return {
      x: (index) => PAD.left + (index / columns) * inner.width,
      y: (score) => PAD.top + ((high - score) / (high - low)) * inner.height,
      index: (x) => Math.round(((x - PAD.left) / inner.width) * columns),
    };
  }

  #draw() {
    const series = this.#series;
    const empty = !series || !series.scores.some((score) => score !== null);
    this.#svg.classList.toggle("is-empty", empty);
    this.#describe(empty);
    if (empty) return;
    const scale = this.#scale();
    this.#drawThreshold(series.threshold, scale);
    const points = series.scores
      .map((score, index) => (score === null ? null : `${fixed(scale.x(index))},${fixed(scale.y(score))}`))
      .filter(Boolean);
    const line = `M${points.join("L")}`;
    const floor = this.#size.height;
    const [first] = points[0].split(",");
    const [last] = points.at(-1).split(",");
    this.#parts.line.setAttribute("d", line);
    this.#parts.over.setAttribute("d", line);
    this.#parts.area.setAttribute("d", `${line}L${last},${floor}L${first},${floor}Z`);
    this.#drawMarks(series, scale);
  }

  #drawThreshold(threshold, scale) {
    const { threshold: line, label, zone, above } = this.#parts;
    const known = threshold !== null;
    for (const part of [line, label, zone]) part.classList.toggle("is-hidden", !known);
    const y = known ? scale.y(threshold) : 0;
    for (const rect of [zone, above]) place(rect, { x: 0, y: 0, width: this.#size.width, height: Math.max(0, y) });
    if (!known) return;
    place(line, { x1: 0, x2: this.#size.width, y1: y, y2: y });
    place(label, { x: PAD.left, y: y > 17 ? y - 5 : y + 15 });
    label.textContent = `${this.#series.line ?? "flag"} threshold ${format(threshold)}`;
  }

  #drawMarks(series, scale) {
    const { dot, halt, cursor } = this.#parts;
    const last = series.scores.length - 1;
    const index = this.#selected ?? last;
    const score = series.scores[index];
    dot.classList.toggle("is-hidden", score === null || (series.halted && index === last));
    if (score !== null) place(dot, { cx: scale.x(index), cy: scale.y(score) });
    cursor.classList.toggle("is-hidden", this.#selected === null);
    place(cursor, { x1: scale.x(index), x2: scale.x(index), y1: 0, y2: this.#size.height });
    halt.classList.toggle("is-hidden", !series.halted);
    if (series.halted && series.scores[last] !== null) {
      const [x, y] = [scale.x(last), scale.y(series.scores[last])];
      halt.setAttribute("d", `M${x - 5},${y - 5}l10,10m0,-10l-10,10`);
    }
  }

  #describe(empty) {
    const svg = this.#svg;
    if (empty) {
      for (const name of ["aria-valuenow", "aria-valuemax"]) svg.setAttribute(name, 0);
      svg.setAttribute("aria-valuetext", "No scores yet");
      return;
    }
    const { scores, texts, threshold } = this.#series;
    const index = this.#selected ?? scores.length - 1;
    const token = texts[index] === undefined ? "halt" : `“${texts[index].trim()}”`;
    svg.setAttribute("aria-valuemax", scores.length);
    svg.setAttribute("aria-valuenow", index + 1);
    svg.setAttribute("aria-valuetext", `Token ${index + 1}, ${token}: ${describeScore(scores[index], threshold)}`);
  }

  #indexAt(event) {
    if (!this.#series?.scores.length) return null;
    const x = event.clientX - this.#svg.getBoundingClientRect().left;
    return clamp(this.#scale().index(x), 0, this.#series.scores.length - 1);
  }

  #onKey(event) {
    const count = this.#series?.scores.length ?? 0;
    const now = this.#selected ?? count - 1;
    const moves = {
      ArrowLeft: now - 1, ArrowRight: now + 1, ArrowDown: now - 1, ArrowUp: now + 1,
      PageUp: now + 10, PageDown: now - 10, Home: 0, End: count - 1,
    };
    if (!count || !(event.key in moves)) return;
    event.preventDefault();
    this.#pick(clamp(moves[event.key], 0, count - 1));
  }

  #pick(index) {
    if (index === this.#selected) return;
    this.select(index);
    this.#onSelect(index);
  }
}

function place(part, attributes) {
  for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, fixed(value));
}

function fixed(value) {
  return Math.round(value * 10) / 10;
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}
