// Owns how the page talks to the server: OpenAI's chat completions as a stream of events, and edgesink's own numbers.
// Knows nothing of the page; what goes wrong is a ServerError whose message a person can read.

const KEY = "edgesink.key"; // in sessionStorage: gone with the tab

export class ServerError extends Error {}

export class Client {
  /** @param askKey (refused: boolean) -> Promise of a key, or null if the person would rather not. */
  constructor(askKey) {
    this.askKey = askKey;
  }

  /** {name, capacity, state_bytes, …} of the model. */
  info() {
    return this.json("edgesink/info");
  }

  /** The ring of a stream now: {conversation, position, capacity, sinks, evicted, recalled}. */
  ring(conversation) {
    return this.json(`edgesink/ring/${encodeURIComponent(conversation)}`);
  }

  /** The pieces of an answer as they come: {text, ring, usage, finish}. `text` may be empty, the others missing.
   * @param recall whether earlier passages may come back for it; undefined where the server keeps none. */
  async *answer(messages, signal, recall) {
    const asked = recall === undefined ? {} : { edgesink: { recall } };
    const body = JSON.stringify({ messages, stream: true, stream_options: { include_usage: true }, ...asked });
    const headers = { "Content-Type": "application/json" };
    const response = await this.request("v1/chat/completions", { method: "POST", headers, body, signal });
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(chunk.error.message ?? "The server stopped without a reason.");
      const [choice] = chunk.choices ?? [];
      const { edgesink: ring, usage } = chunk;
      yield { text: choice?.delta?.content ?? "", finish: choice?.finish_reason, ring, usage };
    }
    throw new ServerError("The connection ended in the middle of the answer.");
  }

  async json(path) {
    return (await this.request(path)).json();
  }

  /** A response that is fine. Where the server wants an API key it is asked for, until it fits or none is given. */
  async request(path, options = {}) {
    for (;;) {
      const key = sessionStorage.getItem(KEY);
      const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : options.headers;
      const response = await reached(path, { ...options, headers });
      if (response.ok) return response;
      if (response.status !== 401) throw new ServerError(await reason(response));
      const given = await this.askKey(key !== null);
      if (given === null) throw new ServerError("The server wants an API key.");
      sessionStorage.setItem(KEY, given);
    }
  }
}

async function reached(path, options) {
  try {
    return await fetch(path, { ...options, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is edgesink serve still running?");
  }
}

async function reason(response) {
  const said = await response.json().then((body) => body.error?.message, () => undefined);
  return said ?? `The server answered ${response.status} ${response.statusText}.`;
}

/** The data of each server-sent event of a body. */
async function* events(body) {
  let waiting = "";
  for await (const text of texts(body)) {
    const parts = (waiting + text).split(/\r?\n\r?\n/);
    waiting = parts.pop();
    for (const event of parts) {
      const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (data.length > 0) yield data.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

async function* texts(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The connection broke in the middle of the answer.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
