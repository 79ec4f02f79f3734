// Owns how turns look: questions as plain text, answers as Markdown, and what became of each in the model's memory.
// Knows of a Talk only its turns, and calls back for a retry.

import { Announcer } from "./announcer.js";
import { button, byId, element } from "./dom.js";
import { showMarkdown } from "./markdown.js";
import { fates, grouped, tokens } from "./memory.js";

const FATES = {
  pinned: "pinned",
  seen: "seen",
  partly: "partly forgotten",
  forgotten: "forgotten",
};
const OUTCOMES = {
  cut: "The answer reached the server's length limit.",
  stopped: "Stopped.",
};
const BACK = "Brought back from earlier";
const UNANSWERED = "Without an answer this is not part of the conversation.";

export class Transcript {
  constructor(modelName, onretry) {
    Object.assign(this, { modelName, onretry, list: byId("turns"), scroller: byId("transcript") });
    this.announcer = new Announcer();
    this.asked = null; // the frame in which an answer will be drawn
    byId("newest").onclick = () => this.toNewest();
    this.scroller.addEventListener("scroll", () => this.offerNewest(), { passive: true });
  }

  /** Show another conversation. */
  open(turns) {
    cancelAnimationFrame(this.asked);
    this.asked = null;
    byId("welcome").hidden = turns.length > 0;
    this.list.replaceChildren(...turns.map((turn) => this.made(turn, turn === turns.at(-1))));
    this.announcer.begin(this.list.lastElementChild?.querySelector(".answer").children.length);
    this.mark(turns);
    this.toNewestOnceDrawn();
  }

  /** A turn that began: the newest one, or the newest one again. */
  begin(turns) {
    byId("welcome").hidden = true;
    this.announcer.begin();
    this.list.querySelectorAll(".retry").forEach((old) => old.remove());
    this.list.children[turns.length - 1]?.remove();
    this.list.append(this.made(turns.at(-1), true));
    this.toNewest();
  }

  /** More of an answer: drawn once a frame, however fast it comes. */
  grow(turn) {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = null;
      this.fill(turn);
    });
  }

  fill(turn) {
    const item = this.list.children[turn.index];
    if (!item) return;
    const follow = this.atNewest();
    const answer = item.querySelector(".answer");
    showMarkdown(answer, turn.answer);
    item.classList.toggle("reading", turn.outcome === "writing" && turn.answer === "");
    this.announcer.hear(answer.children, turn.outcome !== "writing");
    if (follow) this.toNewest();
    else this.offerNewest();
  }

  /** The turn has ended: its notes, its buttons, and what the model has forgotten by now. */
  end(turns, turn) {
    cancelAnimationFrame(this.asked);
    this.asked = null;
    this.fill(turn);
    const follow = this.atNewest();
    const item = this.list.children[turn.index];
    item.querySelector(".after").replaceChildren(...this.after(turn, turn === turns.at(-1)));
    item.removeAttribute("aria-busy");
    this.mark(turns);
    if (turn.outcome !== "done") this.announcer.say(turn.error ?? OUTCOMES[turn.outcome]);
    if (follow) this.toNewest();
  }

  made(turn, last) {
    const writing = turn.outcome === "writing";
    const answer = element("div", { class: "answer" });
    showMarkdown(answer, turn.answer);
    const reading = writing && turn.answer === "";
    const item = element("li", { class: reading ? "turn reading" : "turn", "aria-busy": writing ? "true" : null },
      element("h2", { class: "who" }, "You"), element("p", { class: "fate" }),
      element("p", { class: "question" }, turn.question),
      element("div", { class: "brought", role: "group", "aria-label": BACK, hidden: true }),
      element("h2", { class: "who" }, this.modelName), answer,
      element("p", { class: "waiting", "aria-hidden": "true" }, "reading …"),
      element("div", { class: "after" }, ...(writing ? [] : this.after(turn, last))));
    showRecalled(item.querySelector(".brought"), turn);
    return item;
  }

  /** Passages that came back for a turn: between the question that they belong to and its answer. */
  recall(turn) {
    const place = this.list.children[turn.index]?.querySelector(".brought");
    if (!place?.hidden || !turn.ring?.recalled?.length) return; // said once
    const follow = this.atNewest();
    showRecalled(place, turn);
    this.announcer.say(`${BACK}: ${turn.ring.recalled.map(({ text }) => text).join(" ")}`);
    if (follow) this.toNewest();
  }

  /** What stands below an answer. */
  after(turn, last) {
    const said = [turn.error ?? OUTCOMES[turn.outcome], turn.answer === "" && UNANSWERED].filter(Boolean);
    const tools = element("p", { class: "tools" });
    const canCopy = turn.answer !== "" && navigator.clipboard; // browsers have none where the page comes by plain http
    if (canCopy) tools.append(button("Copy", (event) => copy(event.target, turn.answer)));
    if (last) tools.append(button("Retry", () => this.onretry(), { class: "retry" }));
    tools.append(costs(turn));
    return [...said.map((text) => element("p", { class: turn.outcome }, text)), tools];
  }

  /** Say of each turn whether the model still sees it. */
  mark(turns) {
    fates(turns).forEach((fate, i) => {
      const item = this.list.children[i];
      item.dataset.fate = fate;
      item.querySelector(".fate").textContent = FATES[fate] ?? "";
    });
  }

  atNewest() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < 60;
  }

  toNewest() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.offerNewest();
  }

  /** To the end of a conversation that was just put in: its height is an estimate until its end has been drawn. */
  toNewestOnceDrawn() {
    this.toNewest();
    requestAnimationFrame(() => requestAnimationFrame(() => this.toNewest()));
  }

  offerNewest() {
    byId("newest").hidden = this.atNewest();
  }
}

/** Show what came back for a turn, as it was said. */
function showRecalled(place, { ring }) {
  const passages = ring?.recalled ?? [];
  place.hidden = passages.length === 0;
  const lines = passages.map(({ text, role, said }) => {
    const date = new Date(said * 1000);
    const day = element("time", { datetime: date.toISOString() }, date.toLocaleDateString());
    const who = element("span", { class: "quiet" }, role === "user" ? "You, " : "The model, ", day, ": ");
    return element("li", {}, who, element("q", {}, text));
  });
  place.replaceChildren(element("p", { class: "who" }, BACK), element("ul", {}, ...lines));
}

/** What a turn cost: what was read, what was there already, and how fast the answer came. */
function costs({ usage, seconds }) {
  if (!usage) return "";
  const known = usage.prompt_tokens_details?.cached_tokens ?? 0;
  const written = usage.completion_tokens;
  const speed = seconds && written > 1 ? Math.round((written - 1) / Math.max(0.001, seconds.all - seconds.first)) : 0;
  const said = [`read ${tokens(usage.prompt_tokens - known)}`, `wrote ${grouped(written)}`];
  if (known > 0) said.splice(1, 0, `${grouped(known)} read before`);
  if (speed > 0) said.push(`${grouped(speed)} tokens/s`);
  return said.join(" · ");
}

async function copy(button, text) {
  await navigator.clipboard.writeText(text);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}
