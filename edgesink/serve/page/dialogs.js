// Owns the two questions that interrupt: the server's API key, and whether to delete. Native modal dialogs: the browser
// keeps the focus inside, closes them on Escape and gives the focus back.

import { button, byId, element } from "./dom.js";

/** The API key that a person types, or null. */
export function askKey(refused) {
  const field = element("input", { type: "password", id: "key", autocomplete: "off", required: true });
  const why = refused ? "The server did not accept that key." : "This server wants an API key.";
  const note = `${why} It is kept in this tab until you close it.`;
  return answered("API key", [element("p", {}, note), element("label", { for: "key" }, "Key"), field], "Use it", () => field.value.trim());
}

/** Whether to delete a conversation. */
export async function confirmDelete(title) {
  const text = `“${title}” and all that was said in it will be gone.`;
  return (await answered("Delete this conversation?", [element("p", {}, text)], "Delete", () => true, "danger")) ?? false;
}

function answered(title, content, yes, value, kind = "primary") {
  const dialog = byId("dialog");
  return new Promise((resolve) => {
    let result = null;
    const form = element("form", { onsubmit: (event) => {
      event.preventDefault();
      result = value();
      dialog.close();
    } },
    element("h2", { id: "dialog-title" }, title), ...content,
    element("div", { class: "choices" }, button("Cancel", () => dialog.close()), element("button", { type: "submit", class: kind }, yes)));
    dialog.replaceChildren(form);
    dialog.addEventListener("close", () => resolve(result), { once: true });
    dialog.showModal();
  });
}
