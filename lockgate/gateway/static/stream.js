// A streamed chat completion: server-sent events over fetch, for any split of the bytes.

export class ChatError extends Error {
  constructor(status, message, { code = null, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** Calls `onData` with the data of each event. `push` takes text cut anywhere, even inside a line ending. */
export class EventParser {
  #rest = "";
  #data = [];
  #onData;

  constructor(onData) {
    this.#onData = onData;
  }

  push(text) {
    this.#rest += text;
    // A carriage return at the end waits, because its line feed may follow.
    const ending = /\r\n|\n|\r(?=[^])/g;
    let start = 0;
    for (let match = ending.exec(this.#rest); match; match = ending.exec(this.#rest)) {
      this.#line(this.#rest.slice(start, match.index));
      start = ending.lastIndex;
    }
    this.#rest = this.#rest.slice(start);
  }

  #line(line) {
    if (line === "") {
      if (this.#data.length) this.#onData(this.#data.join("\n"));
      this.#data = [];
    } else if (line === "data" || line.startsWith("data:")) {
      this.#data.push(line.slice(5).replace(/^ /, ""));
    }
  }
}

/** Sends `body` and gives each chunk of the answer to `onChunk`. Throws ChatError, or AbortError on `signal`. */
export async function streamChat(body, { key, signal, onChunk }) {
  const headers = { "content-type": "application/json", "x-lockgate-risk": "1" };
  if (key) headers.authorization = `Bearer ${key}`;
  const request = { method: "POST", headers, body: JSON.stringify(body), signal, cache: "no-store" };
  const response = await connected(fetch("/v1/chat/completions", request));
  if (!response.ok) throw await refusedRequest(response);

  let ended = false;
  const parser = new EventParser((data) => {
    if (data === "[DONE]") ended = true;
    else onChunk(JSON.parse(data));
  });
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  while (!ended) {
    const { done, value } = await connected(reader.read());
    if (done) throw new ChatError(0, "The connection was lost before the answer ended.");
    parser.push(decoder.decode(value, { stream: true }));
  }
}

async function connected(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ChatError(0, "The connection to the server was lost. Is it still running?");
  }
}

async function refusedRequest(response) {
  const error = (await response.json().catch(() => ({}))).error ?? {};
  const retryAfter = response.headers.get("retry-after");
  const message = error.message || `The server answered with status ${response.status}.`;
  return new ChatError(response.status, message, { code: error.code, retryAfter });
}
