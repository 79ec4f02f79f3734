// Owns the message box and its keys: Enter sends, Shift+Enter starts a line, Escape stops the answer.

import { byId } from "./dom.js";

export class Composer {
  /** @param onsend (text) when a message is sent; onstop () when the answer is to stop */
  constructor(onsend, onstop) {
    this.field = byId("message");
    this.onsend = onsend;
    this.writing = false;
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // composing: Enter picks a candidate
      event.preventDefault();
      this.send();
    });
    this.field.addEventListener("input", () => this.fit());
    byId("stop").onclick = onstop;
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.writing && !byId("dialog").open && !event.defaultPrevented) onstop();
    });
  }

  send() {
    const text = this.field.value.trim();
    if (text === "" || this.writing) return;
    this.field.value = "";
    this.fit();
    this.onsend(text);
  }

  /** While an answer is written the button stops it; a next message can be typed meanwhile. */
  show(writing) {
    const focused = [byId("send"), byId("stop")].includes(document.activeElement);
    this.writing = writing;
    byId("send").hidden = writing;
    byId("stop").hidden = !writing;
    if (focused) byId(writing ? "stop" : "send").focus();
  }

  /** As high as the text, up to the limit in style.css. */
  fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight + 2}px`;
  }
}
