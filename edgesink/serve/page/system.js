// Owns the line that shows the system prompt and the field that edits it.

import { button, byId, choices, element } from "./dom.js";

/** Show a system prompt; `keep(text)` is called with another one. `begun`: the conversation has turns already. */
export function showSystem(system, begun, keep) {
  const edit = () => editSystem(system, begun, keep);
  if (system === "") return byId("system").replaceChildren(button("Add a system prompt", edit));
  byId("system").replaceChildren(
    element("span", { class: "quiet" }, "System prompt: "),
    element("span", { class: "prompt" }, system),
    button("Edit", edit, { "aria-label": "Edit the system prompt" }),
  );
}

function editSystem(system, begun, keep) {
  const leave = (text) => {
    keep(text);
    byId("system").querySelector("button").focus();
  };
  const note = begun
    ? "A changed prompt makes the model read this conversation anew with your next message."
    : "It comes before everything else and is pinned: the model never forgets it.";
  const field = element("textarea", { id: "system-text", rows: 3 });
  field.value = system;
  const onsubmit = (event) => {
    event.preventDefault();
    leave(field.value.trim());
  };
  const onkeydown = (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault(); // it does not stop an answer too
    leave(system);
  };
  byId("system").replaceChildren(
    element("form", { class: "edit", onsubmit, onkeydown },
      element("label", { for: "system-text" }, "System prompt"), field,
      element("p", { class: "quiet" }, note), choices(() => leave(system), "Keep")),
  );
  field.focus();
}
