// Owns a conversation: its turns, what is sent to the server, and the answer that is being written. Tells its listeners
// what changed and knows nothing of how it looks.
//
// A turn: {conversation, index, question, answer, outcome, error, ring, usage, seconds, system}
//   outcome  "writing", then "done", "cut" (by the server's limit), "stopped" (by the person) or "failed"
//   ring     the numbers of the stream when the turn ended; system: the system prompt that it was answered under

import { ServerError } from "./client.js";

const SAVE_EVERY_MS = 500; // while an answer is written
const LOOK_EVERY_MS = 300; // at the ring meanwhile

export class Talk extends EventTarget {
  constructor(record, turns, store, client) {
    super();
    Object.assign(this, { record, turns, store, client, abort: null });
    for (const turn of turns.filter(({ outcome }) => outcome === "writing")) turn.outcome = "stopped"; // a closed page
  }

  get writing() {
    return this.abort !== null;
  }

  /** The stream's numbers as last heard. */
  get ring() {
    return this.turns.findLast(({ ring }) => ring)?.ring;
  }

  /** Ask, and write the answer until it ends, fails or is stopped. */
  send(question) {
    return (this.asked = this.ask({ conversation: this.record.id, index: this.turns.length, question }));
  }

  /** Ask the last question again; its old answer is gone. */
  retry() {
    const { conversation, index, question } = this.turns.at(-1);
    return (this.asked = this.ask({ conversation, index, question }));
  }

  /** Stop the answer; resolves once it is kept as far as it came. */
  stop() {
    this.abort?.abort();
    return this.asked;
  }

  /** Whether earlier passages may come back for the next message. */
  get recalls() {
    return this.record.recalls ?? true;
  }

  async setRecalls(recalls) {
    await this.keep({ recalls });
  }

  async rename(title) {
    await this.keep({ title, named: true });
  }

  /** Another system prompt: with the next message the server reads the conversation anew under it. */
  async setSystem(system) {
    await this.keep({ system });
  }

  async keep(changes) {
    Object.assign(this.record, changes);
    if (this.turns.length === 0) return; // not begun: nothing to keep
    await this.store.saveConversation(this.record);
    this.tell("conversation");
  }

  async ask(begun) {
    const turn = { ...begun, answer: "", outcome: "writing", system: this.record.system };
    const recall = this.client.remembers ? this.recalls : undefined;
    this.turns[turn.index] = turn;
    this.abort = new AbortController();
    this.tell("begun", turn);
    const watch = setInterval(() => this.look(turn), LOOK_EVERY_MS);
    try {
      const title = this.record.named || turn.index > 0 ? this.record.title : titled(turn.question);
      await this.keep({ title, updated: Date.now() });
      await this.write(turn, this.abort.signal, recall);
    } catch (error) {
      turn.outcome = error.name === "AbortError" ? "stopped" : "failed";
      if (turn.outcome === "failed") turn.error = error.message;
      if (!["AbortError", "QuotaExceededError"].includes(error.name) && !(error instanceof ServerError)) throw error;
    } finally {
      clearInterval(watch);
      if (turn.answer === "") delete turn.ring; // the server drops what it has only read
      this.abort = null;
      this.tell("ended", turn);
      await this.store.saveTurn(turn);
    }
  }

  async write(turn, signal, recall) {
    const started = performance.now();
    let first; // when the answer began
    let saved = 0;
    for await (const { text, ring, usage, finish } of this.client.answer(this.history(turn), signal, recall)) {
      first ??= text ? performance.now() : undefined;
      turn.answer += text;
      if (ring) this.move(turn, ring);
      turn.usage = usage ?? turn.usage;
      if (finish) turn.outcome = finish === "length" ? "cut" : "done";
      const now = performance.now();
      turn.seconds = { first: ((first ?? now) - started) / 1000, all: (now - started) / 1000 };
      if (now - saved > SAVE_EVERY_MS) {
        await this.store.saveTurn({ ...turn, outcome: "writing" });
        saved = now;
      }
      this.tell("grown", turn);
    }
  }

  /** The messages up to a turn's question. A question without an answer is not part of the conversation. */
  history(turn) {
    const system = this.record.system ? [{ role: "system", content: this.record.system }] : [];
    const before = this.turns.slice(0, turn.index).filter(({ answer }) => answer !== "");
    const said = before.flatMap(({ question, answer }) => [
      { role: "user", content: question },
      { role: "assistant", content: answer },
    ]);
    return [...system, ...said, { role: "user", content: turn.question }];
  }

  /** Ask where the stream of a turn stands, once the server has said which one it is. */
  async look(turn) {
    if (!turn.ring) return;
    const ring = await this.client.ring(turn.ring.conversation).catch(() => undefined);
    if (ring && turn.outcome === "writing") this.move(turn, ring);
  }

  move(turn, ring) {
    turn.ring = ring;
    this.tell("moved", turn);
  }

  tell(type, turn) {
    this.dispatchEvent(Object.assign(new Event(type), { turn }));
  }
}

/** A conversation that has not begun. */
export function blank(system = "") {
  const bytes = crypto.getRandomValues(new Uint8Array(12)); // randomUUID is missing where the page comes by plain http
  const id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, title: "New conversation", named: false, system, updated: Date.now() };
}

/** The first words of a question, as a title. */
function titled(question) {
  const line = question.trim().split(/\s+/).join(" ");
  return line.length > 48 ? `${line.slice(0, 47).replace(/\s\S*$/, "")} …` : line;
}
