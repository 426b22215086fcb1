// The conversation on the page. Text enters only through textContent, so it never becomes markup.

import { bandOf, counted, describeScore, format, riskOf } from "./risk.js";

export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function turn(kind, who) {
  const root = element("article", `turn ${kind}`);
  root.append(element("h3", "who", who));
  return root;
}

export function questionView(text) {
  const root = turn("question", "You");
  root.append(element("p", "text", text));
  return root;
}

/** One answer: its tokens, how it ended, and the series of its scores. */
export class AnswerView {
  content = "";
  refusal = null;
  outcome = null;
  finishReason = null;
  series = { scores: [], texts: [], threshold: null, line: null, halted: false };
  root = turn("answer", "Model");
  #text = element("p", "text");
  #foot = element("p", "foot");
  #tokens = [];
  #shown = "";

  constructor() {
    this.root.dataset.state = "waiting";
    this.root.setAttribute("aria-busy", "true");
    this.root.append(this.#text, this.#foot);
  }

  /** Take one chunk of the stream. */
  add(chunk) {
    const choice = chunk.choices?.[0];
    if (chunk.lockgate?.tokens) this.#addTokens(chunk.lockgate);
    if (!choice) return;
    this.content += choice.delta.content ?? "";
    if (!chunk.lockgate) this.#showRest();
    if (choice.delta.refusal) this.refusal = (this.refusal ?? "") + choice.delta.refusal;
    if (choice.finish_reason) {
      this.finishReason = choice.finish_reason;
      this.outcome = chunk.lockgate ?? null;
    }
    if (this.content && this.root.dataset.state === "waiting") this.root.dataset.state = "streaming";
  }

  highlight(index) {
    this.#text.querySelector(".is-selected")?.classList.remove("is-selected");
    if (index !== null) this.#tokens[index]?.classList.add("is-selected");
  }

  indexOf(node) {
    return this.#tokens.indexOf(node);
  }

  /** `state`: done, stopped, halted or failed. */
  end(state) {
    this.#showRest();
    this.root.dataset.state = state;
    this.root.removeAttribute("aria-busy");
    this.#foot.textContent = this.#summary(state);
  }

  /** Show a notice below the answer: a halt, a failure, or what shadow mode would have stopped. */
  addBanner({ kind, title, body, detail = "" }) {
    const banner = element("div", `banner banner-${kind}`);
    banner.setAttribute("role", "alert");
    banner.append(element("h4", "", title));
    if (body) banner.append(element("p", "", body));
    if (detail) banner.append(element("p", "detail", detail));
    this.#foot.before(banner);
    return banner;
  }

  #addTokens({ tokens, threshold, line }) {
    this.series.threshold = threshold;
    this.series.line = line ?? null; // what happens above the threshold: "escalation" or "flag"
    for (const { text, score } of tokens) {
      const token = element("span", "token", text);
      token.title = describeScore(score, threshold);
      token.dataset.score = score === null ? "" : format(score);
      token.dataset.band = bandOf(score, threshold);
      token.style.setProperty("--risk", riskOf(score, threshold));
      this.#text.append(token);
      this.#tokens.push(token);
      this.#shown += text;
      this.series.scores.push(score);
      this.series.texts.push(text);
    }
  }

  /** Add text that has no tokens: the server sends no scores, or the text completes a cut character. */
  #showRest() {
    if (this.content.length <= this.#shown.length) return;
    this.#text.append(document.createTextNode(this.content.slice(this.#shown.length)));
    this.#shown = this.content;
  }

  #summary(state) {
    const parts = [];
    if (state === "stopped") parts.push("Stopped by you");
    if (this.finishReason === "length") parts.push("Cut at your token limit");
    const count = this.#tokens.length;
    if (count) parts.push(counted(count, "token"));
    const known = this.series.scores.filter((score) => score !== null);
    if (known.length) parts.push(`highest ${describeScore(Math.max(...known), this.series.threshold)}`);
    return parts.join(" · ");
  }
}
