// Owns the two questions that interrupt: the server's API key, and whether to delete. Native modal dialogs: the browser
// keeps the focus inside, closes them on Escape and gives the focus back.

import { byId, choices, element } from "./dom.js";

/** The API key that a person types, or null. */
export function askKey(refused) {
  const field = element("input", { type: "password", id: "key", autocomplete: "off", required: true });
  const why = refused ? "The server did not accept that key." : "This server wants an API key.";
  const note = element("p", {}, `${why} It is kept in this tab until you close it.`);
  const label = element("label", { for: "key" }, "Key");
  return answered("API key", [note, label, field], "Use it", () => field.value.trim());
}

/** Whether to delete a conversation. */
export async function confirmDelete(title) {
  const text = element("p", {}, `“${title}” and all that was said in it will be gone.`);
  return (await answered("Delete this conversation?", [text], "Delete", () => true, "danger")) ?? false;
}

/** The value of a form once it is submitted, or null when it is left. */
function answered(title, content, yes, value, kind) {
  const dialog = byId("dialog");
  return new Promise((resolve) => {
    let result = null;
    const onsubmit = (event) => {
      event.preventDefault();
      result = value();
      dialog.close();
    };
    const heading = element("h2", { id: "dialog-title" }, title);
    const buttons = choices(() => dialog.close(), yes, kind);
    dialog.replaceChildren(element("form", { onsubmit }, heading, ...content, buttons));
    dialog.addEventListener("close", () => resolve(result), { once: true });
    dialog.showModal();
  });
}
