// Owns which conversation is open, and connects the parts: the store on disk, the server, and the views.

import { Client, ServerError } from "./client.js";
import { Composer } from "./composer.js";
import { Conversations } from "./conversations.js";
import { askKey, confirmDelete } from "./dialogs.js";
import { byId, notice } from "./dom.js";
import { drawRing } from "./ring.js";
import { Store } from "./store.js";
import { showSystem } from "./system.js";
import { Talk, blank } from "./talk.js";
import { themeSwitch } from "./theme.js";
import { Transcript } from "./transcript.js";

const LAST = "edgesink.conversation"; // the one that was open, in localStorage
const wide = matchMedia("(min-width: 1000px)");

class App {
  async start() {
    this.client = new Client(askKey);
    this.store = await Store.open((id) => this.changedElsewhere(id));
    this.info = await this.client.info().catch((error) => {
      throw new ServerError(`${error.message} Reload the page to try again.`);
    });
    this.client.remembers = this.info.memory;
    byId("model").textContent = this.info.name;
    byId("recalls").closest("label").hidden = !this.info.memory;
    byId("recalls").onchange = ({ target }) => this.run(this.talk.setRecalls(target.checked));
    this.talks = new Map(); // id -> Talk, of those that are open or being written
    this.transcript = new Transcript(this.info.name, () => this.run(this.talk.retry()));
    this.composer = new Composer((text) => this.run(this.talk.send(text)), () => this.talk.stop());
    this.side = new Conversations({
      choose: (id) => this.run(this.choose(id)),
      rename: (id, title) => this.run(this.rename(id, title)),
      remove: (id) => this.run(this.remove(id)),
    });
    byId("new").onclick = () => this.run(this.open(blank(this.talk.record.system)).then(() => byId("message").focus()));
    const records = await this.store.conversations();
    await this.open(records.find(({ id }) => id === localStorage.getItem(LAST)) ?? records[0] ?? blank());
  }

  /** Do something for a person; what goes wrong is told. */
  async run(work) {
    notice();
    try {
      await work;
    } catch (error) {
      const full = error.name === "QuotaExceededError";
      notice(full ? "This browser has no room left to keep conversations." : error.message);
      if (!(error instanceof ServerError)) throw error; // a mistake of this page: the console shows it too
    }
  }

  /** Open a conversation; one without turns is kept only once it has one. */
  async open(record) {
    this.talk = this.talks.get(record.id)?.writing ? this.talks.get(record.id) : await this.load(record);
    localStorage.setItem(LAST, record.id);
    byId("system").replaceChildren(); // an editor of another conversation
    this.transcript.open(this.talk.turns);
    this.side.drawer(false, false);
    this.show();
    await this.list();
  }

  async load(record) {
    const talk = new Talk(record, await this.store.turns(record.id), this.store, this.client);
    for (const type of ["begun", "grown", "moved", "ended", "conversation"]) {
      talk.addEventListener(type, (event) => this.heard(talk, event));
    }
    this.talks.set(record.id, talk);
    return talk;
  }

  /** Something happened in a conversation; it is drawn if that one is open. */
  heard(talk, { type, turn }) {
    const isOpen = talk === this.talk;
    if (type === "grown") return isOpen && this.transcript.grow(turn);
    if (type === "moved") {
      if (isOpen) this.transcript.recall(turn);
      return isOpen && this.draw();
    }
    if (type === "begun" && isOpen) this.transcript.begin(talk.turns);
    if (type === "ended" && isOpen) this.transcript.end(talk.turns, turn);
    if (isOpen) this.show();
    return this.run(this.list());
  }

  /** What is not the transcript: title, system prompt, button, ring. */
  show() {
    const { record, turns, writing } = this.talk;
    byId("title").textContent = record.title;
    document.title = `${record.title} · edgesink`;
    if (!byId("system-text")) showSystem(record.system, turns.length > 0, (text) => this.run(this.setSystem(text)));
    byId("recalls").checked = this.talk.recalls;
    this.composer.show(writing);
    this.draw();
  }

  draw() {
    drawRing(this.talk.ring ?? { capacity: this.info.capacity }, this.info.state_bytes);
  }

  async list() {
    const writing = new Set([...this.talks.values()].filter((talk) => talk.writing).map((talk) => talk.record.id));
    this.side.show(await this.store.conversations(), this.talk.record.id, writing);
  }

  async choose(id) {
    const record = (await this.store.conversations()).find((one) => one.id === id);
    if (record) await this.open(record);
    byId("title").focus();
  }

  async rename(id, title) {
    const record = (await this.store.conversations()).find((one) => one.id === id);
    if (record && title !== record.title) await (this.talks.get(id) ?? (await this.load(record))).rename(title);
    else await this.list();
  }

  async remove(id) {
    const records = await this.store.conversations();
    const record = records.find((one) => one.id === id);
    if (!record || !(await confirmDelete(record.title))) return;
    await this.talks.get(id)?.stop();
    this.talks.delete(id);
    await this.store.remove(id);
    if (id === this.talk.record.id) await this.open(records.find((one) => one.id !== id) ?? blank());
    else await this.list();
    byId("new").focus();
  }

  async setSystem(text) {
    byId("system").replaceChildren();
    const kept = this.talk.setSystem(text);
    this.show();
    await kept;
  }

  /** Another tab changed a conversation. */
  async changedElsewhere(id) {
    if (id === this.talk?.record.id && !this.talk.writing) {
      const record = (await this.store.conversations()).find((one) => one.id === id);
      if (record) return this.open(record);
    }
    return this.list();
  }
}

themeSwitch(byId("theme"));
byId("memory").open = wide.matches;
wide.addEventListener("change", () => (byId("memory").open = wide.matches));
const app = new App();
app.run(app.start());
