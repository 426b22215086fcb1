// The behaviour of the page: sending, stopping, ending, and the panel with the risk of the chosen answer.

import { RiskChart } from "./chart.js";
import { counted, describeScore, format } from "./risk.js";
import { ChatError, streamChat } from "./stream.js";
import { AnswerView, element, questionView } from "./transcript.js";

const find = (id) => document.getElementById(id);
const server = document.body.dataset;
const titles = JSON.parse(server.titles);
const facts = document.querySelector(".facts");
const [log, form, prompt] = [find("log"), find("composer"), find("prompt")];
const state = { turns: [], views: [], shown: null, abort: null };

const chart = new RiskChart(find("chart"), (index) => {
  state.shown?.highlight(index);
  showReading(index);
});

async function send(text) {
  find("welcome").hidden = true;
  const question = questionView(text);
  const answer = new AnswerView();
  state.views.push(answer);
  log.append(question, answer.root);
  show(answer);
  const asked = { role: "user", content: text };
  const abort = new AbortController();
  state.abort = abort;
  setBusy(true);
  log.scrollTop = log.scrollHeight;
  try {
    await streamChat(requestBody(asked), {
      key: find("key")?.value.trim(),
      signal: abort.signal,
      onChunk: (chunk) => keepAtEnd(() => grow(answer, chunk)),
    });
    if (state.abort === abort) keepAtEnd(() => finish(answer, asked));
  } catch (error) {
    if (state.abort === abort) keepAtEnd(() => breakOff(answer, asked, question, error));
  } finally {
    if (state.abort === abort) {
      state.abort = null;
      setBusy(false);
      if (state.shown === answer) show(answer);
    }
  }
}

function requestBody(asked) {
  return {
    model: server.model,
    messages: [...state.turns, asked],
    stream: true,
    temperature: find("temperature").valueAsNumber,
    max_tokens: find("max-tokens").valueAsNumber,
  };
}

function grow(answer, chunk) {
  answer.add(chunk);
  if (state.shown !== answer) return;
  chart.refresh();
  showReading(null);
}

function finish(answer, asked) {
  if (answer.refusal !== null) {
    halt(answer);
    state.turns.push(asked, { role: "assistant", content: null, refusal: answer.refusal });
    return;
  }
  answer.end("done");
  if (answer.content) state.turns.push(asked, { role: "assistant", content: answer.content });
  if (answer.outcome && ["halt", "block"].includes(answer.outcome.decision)) noteShadow(answer);
  announce(`Answer complete. ${answer.root.querySelector(".foot").textContent}`);
}

function halt(answer) {
  const { decision, category, threshold } = answer.outcome ?? {};
  const score = decision === "block" ? answer.outcome.max_prompt : answer.outcome?.max_answer;
  const known = score !== null && score !== undefined;
  if (known && decision !== "error") {
    answer.series.scores.push(score);
    answer.series.threshold ??= threshold;
  }
  answer.series.halted = known;
  answer.end("halted");
  const before = answer.series.texts.length;
  const heading = {
    block: "Stopped at the question",
    error: "Stopped: it could not be checked",
  }[decision] ?? "Halted";
  answer.addBanner({
    kind: "halt",
    title: decision !== "error" && category ? `${heading} · ${titleOf(category)}` : heading,
    body: answer.refusal,
    detail: [
      before ? `${counted(before, "token")} had passed and ${before === 1 ? "is" : "are"} withdrawn` : "Nothing had passed",
      known ? describeScore(score, threshold) : "",
    ].filter(Boolean).join(" · "),
  });
}

function noteShadow(answer) {
  const { category, decision, max_prompt: ofPrompt, max_answer: ofAnswer, threshold } = answer.outcome;
  const score = decision === "block" ? ofPrompt : ofAnswer;
  answer.addBanner({
    kind: "note",
    title: `Shadow mode: this would have been stopped${category ? ` · ${titleOf(category)}` : ""}`,
    detail: score === null ? "" : describeScore(score, threshold),
  });
}

function breakOff(answer, asked, question, error) {
  if (error.name === "AbortError") {
    answer.end("stopped");
    if (answer.content) state.turns.push(asked, { role: "assistant", content: answer.content });
    announce("Stopped.");
    return;
  }
  if (error.code === "content_filter") {
    answer.end("halted");
    answer.addBanner({ kind: "halt", title: "Stopped at the question", body: error.message });
    return;
  }
  answer.end("failed");
  const banner = answer.addBanner({ kind: "error", ...inPlainWords(error) });
  if (error.status === 401) find("key")?.focus();
  const retry = element("button", "quiet", "Try again");
  retry.type = "button";
  retry.addEventListener("click", () => {
    if (state.abort) return;
    prompt.focus();
    question.remove();
    answer.root.remove();
    send(asked.content);
  });
  banner.append(retry);
}

function inPlainWords(error) {
  if (!(error instanceof ChatError)) return { title: "The page could not read the answer", body: String(error.message) };
  if (error.code === "context_length_exceeded") {
    return { title: "This chat is too long for the model", body: `${error.message} Or start a new chat.` };
  }
  const title = {
    0: "Connection lost",
    401: "An API key is needed",
    429: "The server is busy",
    503: "The server is not ready",
  }[error.status] ?? (error.status < 500 ? "The server did not accept this" : "The server failed");
  return { title, body: error.status === 401 ? "Enter the server's key below, then try again." : error.message };
}

/** Put an answer's line into the panel. */
function show(answer) {
  state.shown?.root.classList.remove("is-shown");
  state.shown = answer;
  answer?.root.classList.add("is-shown");
  chart.show(answer?.series ?? null);
  showReading(null);
}

function showReading(index) {
  const series = state.shown?.series;
  const at = index ?? (series ? series.scores.length - 1 : -1);
  const score = series?.scores[at] ?? null;
  find("reading").textContent = score === null ? "–" : format(score);
  find("reading").dataset.over = score !== null && series.threshold !== null && score > series.threshold;
  const words = score === null ? "no score yet" : describeScore(score, series.threshold).replace(/^score [^,]*,? ?/, "");
  const place = index === null || score === null ? "" : `token ${at + 1} of ${series.scores.length} · `;
  find("reading-words").textContent = place + words;
}

/** Show the token under the pointer on the line, if the panel shows its answer. */
function pointAt(node) {
  if (!node.classList.contains("token") || answerAt(node) !== state.shown) return;
  const index = state.shown.indexOf(node);
  chart.select(index);
  state.shown.highlight(index);
  showReading(index);
}

function titleOf(category) {
  const words = category.replaceAll(/[-_]/g, " ");
  return Object.hasOwn(titles, category) ? titles[category] : words[0].toUpperCase() + words.slice(1);
}

function keepAtEnd(change) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function setBusy(busy) {
  const hadFocus = [find("send"), find("stop")].includes(document.activeElement);
  find("send").hidden = busy;
  find("stop").hidden = !busy;
  if (hadFocus) find(busy ? "stop" : "send").focus();
}

function announce(words) {
  find("status").textContent = words;
}

function newChat() {
  const abort = state.abort;
  state.abort = null;
  abort?.abort();
  for (const turn of log.querySelectorAll(".turn")) turn.remove();
  Object.assign(state, { turns: [], views: [] });
  show(null);
  find("welcome").hidden = false;
  setBusy(false);
  announce("New chat.");
  prompt.focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = prompt.value.trim();
  if (state.abort || !text || !form.reportValidity()) return;
  prompt.value = "";
  announce("");
  send(text);
});

prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (facts.open) facts.open = false;
  else state.abort?.abort();
});
document.addEventListener("click", (event) => {
  if (!facts.contains(event.target)) facts.open = false;
});

find("stop").addEventListener("click", () => state.abort?.abort());
find("new-chat").addEventListener("click", newChat);
find("numbers")?.addEventListener("change", (event) => {
  keepAtEnd(() => log.classList.toggle("with-numbers", event.target.checked));
});
for (const example of document.querySelectorAll(".example")) {
  example.addEventListener("click", () => {
    if (state.abort || !form.reportValidity()) return;
    prompt.focus();
    send(example.textContent.trim());
  });
}

const answerAt = (node) => state.views.find((view) => view.root.contains(node));

log.addEventListener("click", (event) => {
  const answer = answerAt(event.target);
  if (answer && answer !== state.shown) show(answer);
  pointAt(event.target);
});
log.addEventListener("pointerover", (event) => pointAt(event.target));
log.addEventListener("pointerleave", () => {
  chart.select(null);
  state.shown?.highlight(null);
  showReading(null);
});

find("send").disabled = false;
prompt.focus();
