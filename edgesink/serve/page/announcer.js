// Owns what a screen reader hears of an answer without being asked: each paragraph once, when it is finished, after
// what is being said already (aria-live="polite"). Token by token nobody could follow.

import { byId } from "./dom.js";

const MAY_CHANGE = 2; // blocks at the end: the next item of a list looks like a new paragraph at first

export class Announcer {
  constructor() {
    this.place = byId("announcer");
    this.spoken = 0; // blocks of the answer
  }

  /** Another answer, of which `spoken` blocks need not be said. */
  begin(spoken = 0) {
    this.place.replaceChildren();
    this.spoken = spoken;
  }

  /** An answer has these blocks by now; `whole`: no more will come. */
  hear(blocks, whole) {
    const finished = blocks.length - (whole ? 0 : MAY_CHANGE);
    for (; this.spoken < finished; this.spoken++) this.say(words(blocks[this.spoken]));
  }

  say(text) {
    const line = document.createElement("span");
    line.textContent = `${text} `;
    this.place.append(line);
  }
}

/** The text of an element, its parts kept apart. */
function words(element) {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) found.push(walker.currentNode.data.trim());
  return found.join(" ");
}
