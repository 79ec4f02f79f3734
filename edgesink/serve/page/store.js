// Owns the conversations on disk: IndexedDB of this browser, one small record a turn, so that saving a turn costs the
// same however long the conversation is. Knows nothing of the server.
//
// conversations: {id, title, named, system, updated}          named: the title is a person's own
// turns: {conversation, index, question, answer, outcome, …}  see talk.js

const NAME = "edgesink";
const VERSION = 1;

export class Store {
  /** Opens the database; another tab hears of changes through `onchange(conversation id)`. */
  static async open(onchange) {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("conversations", { keyPath: "id" });
      request.result.createObjectStore("turns", { keyPath: ["conversation", "index"] });
    };
    const database = await finished(request).catch(() => {
      throw new Error("This browser does not let the page keep conversations. Is it a private window?");
    });
    return new Store(database, onchange);
  }

  constructor(database, onchange) {
    this.database = database;
    this.channel = new BroadcastChannel(NAME);
    this.channel.onmessage = ({ data }) => onchange(data);
  }

  /** All conversations, the one used last first. */
  async conversations() {
    const all = await finished(this.table("conversations").getAll());
    return all.sort((one, other) => other.updated - one.updated);
  }

  /** The turns of a conversation, in order. */
  turns(conversation) {
    return finished(this.table("turns").getAll(turnsOf(conversation)));
  }

  async saveConversation(record) {
    await finished(this.table("conversations", "readwrite").put(record));
    this.channel.postMessage(record.id);
  }

  async saveTurn(record) {
    await finished(this.table("turns", "readwrite").put(record));
    if (record.outcome !== "writing") this.channel.postMessage(record.conversation);
  }

  /** Remove a conversation and all it says. */
  async remove(id) {
    await finished(this.table("turns", "readwrite").delete(turnsOf(id)));
    await finished(this.table("conversations", "readwrite").delete(id));
    this.channel.postMessage(id);
  }

  table(name, mode = "readonly") {
    return this.database.transaction(name, mode).objectStore(name);
  }
}

const turnsOf = (conversation) => IDBKeyRange.bound([conversation, 0], [conversation, Infinity]);

/** The result of a request; of one that writes, once its transaction is complete. */
function finished(request) {
  const { transaction } = request;
  return new Promise((resolve, reject) => {
    const done = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    if (transaction?.mode === "readwrite") {
      transaction.oncomplete = done;
      transaction.onabort = () => reject(transaction.error);
    } else {
      request.onsuccess = done;
    }
  });
}
