// Owns the line that shows the system prompt and the field that edits it.

import { button, byId, element } from "./dom.js";

/** Show a system prompt; `keep(text)` is called with another one. */
export function showSystem(system, begun, keep) {
  const place = byId("system");
  const edit = button(system ? "Edit" : "Add a system prompt", () => editSystem(system, begun, keep), { "aria-label": "Edit the system prompt" });
  place.replaceChildren(...(system ? [element("span", { class: "quiet" }, "System prompt: "), element("span", { class: "prompt" }, system)] : []), edit);
}

function editSystem(system, begun, keep) {
  const back = (text) => {
    keep(text);
    byId("system").querySelector("button").focus();
  };
  const field = element("textarea", { id: "system-text", rows: 3 });
  field.value = system;
  const note = begun
    ? "A changed prompt makes the model read this conversation anew with your next message."
    : "It comes before everything else and is pinned: the model never forgets it.";
  const form = element("form", {
    class: "edit",
    onsubmit: (event) => {
      event.preventDefault();
      back(field.value.trim());
    },
    onkeydown: (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      back(system);
    },
  }, element("label", { for: "system-text" }, "System prompt"), field, element("p", { class: "quiet" }, note),
  element("div", { class: "choices" }, button("Cancel", () => back(system)), element("button", { type: "submit", class: "primary" }, "Keep")));
  byId("system").replaceChildren(form);
  field.focus();
}
