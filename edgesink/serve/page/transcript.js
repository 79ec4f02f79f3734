// Owns how turns look: questions as plain text, answers as Markdown, what became of each in the model's memory, and
// what a screen reader hears. Knows of a Talk only its turns, and calls back for a retry.

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
const UNANSWERED = "Without an answer this is not part of the conversation.";

export class Transcript {
  constructor(modelName, onretry) {
    Object.assign(this, { modelName, onretry, list: byId("turns"), scroller: byId("transcript") });
    this.spoken = 0; // paragraphs of the newest answer that a screen reader was given
    this.asked = null; // the frame in which an answer will be drawn
    byId("newest").onclick = () => this.toNewest();
    this.scroller.addEventListener("scroll", () => this.offerNewest(), { passive: true });
  }

  /** Show another conversation. */
  open(turns) {
    cancelAnimationFrame(this.asked);
    this.asked = null;
    byId("welcome").hidden = turns.length > 0;
    byId("announcer").replaceChildren();
    this.list.replaceChildren(...turns.map((turn) => this.made(turn, turn === turns.at(-1))));
    this.spoken = this.list.lastElementChild?.querySelector(".answer").children.length ?? 0;
    this.mark(turns);
    this.toNewest();
  }

  /** A turn that began: the newest one, or the newest one again. */
  begin(turns) {
    byId("welcome").hidden = true;
    this.spoken = 0;
    this.list.querySelectorAll(".retry").forEach((old) => old.remove());
    this.list.children[turns.length - 1]?.remove();
    this.list.append(this.made(turns.at(-1), true));
    byId("announcer").replaceChildren();
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
    const count = showMarkdown(item.querySelector(".answer"), turn.answer);
    item.classList.toggle("reading", turn.outcome === "writing" && turn.answer === "");
    this.speak(item, turn.outcome === "writing" ? count - 1 : count); // the last paragraph may still grow
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
    if (turn.outcome !== "done") this.say(turn.error ?? OUTCOMES[turn.outcome]);
    if (follow) this.toNewest();
  }

  made(turn, last) {
    const writing = turn.outcome === "writing";
    const answer = element("div", { class: "answer" });
    showMarkdown(answer, turn.answer);
    const reading = writing && turn.answer === "";
    return element("li", { class: reading ? "turn reading" : "turn", "aria-busy": writing ? "true" : null },
      element("h2", { class: "who" }, "You"), element("p", { class: "fate" }),
      element("p", { class: "question" }, turn.question),
      element("h2", { class: "who" }, this.modelName), answer,
      element("p", { class: "waiting", "aria-hidden": "true" }, "reading …"),
      element("div", { class: "after" }, ...(writing ? [] : this.after(turn, last))));
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

  /** Let a screen reader say the paragraphs that are finished, each once, after what it is saying now. */
  speak(item, finished) {
    const found = item.querySelector(".answer").children;
    for (; this.spoken < finished; this.spoken++) this.say(found[this.spoken].textContent);
  }

  say(text) {
    byId("announcer").append(element("span", {}, `${text} `));
  }

  atNewest() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < 60;
  }

  toNewest() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.offerNewest();
  }

  offerNewest() {
    byId("newest").hidden = this.atNewest();
  }
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
