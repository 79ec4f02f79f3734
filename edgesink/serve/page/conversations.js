// Owns the list of conversations at the side (a drawer on narrow screens): choosing, renaming, deleting. Knows only
// their records, and calls back for what is done to them.

import { button, byId, element } from "./dom.js";

export class Conversations {
  /** @param does {choose(id), rename(id, title), remove(id)} */
  constructor(does) {
    this.does = does;
    byId("drawer").onclick = () => this.drawer(!this.open, true);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.defaultPrevented && this.open) this.drawer(false, true);
    });
    document.addEventListener("click", ({ target }) => {
      if (this.open && !target.closest("#conversations, #drawer, dialog")) this.drawer(false, true);
    });
  }

  /** Show the records; `writing` are the ids whose answer is being written. */
  show(records, chosen, writing) {
    const focused = document.activeElement?.closest?.("#list [data-focus]")?.dataset.focus;
    const items = records.map((record) => this.item(record, record.id === chosen, writing.has(record.id)));
    byId("list").replaceChildren(...items);
    if (focused) byId("list").querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
  }

  get open() {
    return document.body.classList.contains("drawer-open");
  }

  /** Open or close the drawer of a narrow screen; while it is open nothing beside it takes part. */
  drawer(open, focus) {
    byId("drawer").setAttribute("aria-expanded", String(open));
    document.body.classList.toggle("drawer-open", open);
    document.querySelectorAll("main, aside").forEach((beside) => (beside.inert = open));
    if (focus) byId(open ? "new" : "drawer").focus();
  }

  item(record, chosen, writing) {
    const { id, title } = record;
    const choose = button(title, () => this.does.choose(id), {
      class: "choose", "aria-current": chosen ? "true" : null, "data-focus": `choose-${id}`, title,
    });
    if (writing) choose.append(element("span", { class: "busy" }, " (writing)"));
    const rename = button("✎", () => this.edit(item, record), {
      class: "icon", "aria-label": `Rename ${title}`, "data-focus": `rename-${id}`,
    });
    const remove = button("✕", () => this.does.remove(id), {
      class: "icon", "aria-label": `Delete ${title}`, "data-focus": `remove-${id}`,
    });
    const item = element("li", {}, choose, rename, remove);
    return item;
  }

  /** A field in place of the title: Enter keeps it, Escape and an empty one do not. */
  edit(item, { id, title }) {
    const field = element("input", { class: "rename", "aria-label": "Title", value: title, maxlength: 120 });
    let open = true;
    const close = (kept) => {
      if (!open) return;
      open = false;
      this.does.rename(id, (kept && field.value.trim()) || title);
      byId("list").querySelector(`[data-focus="rename-${id}"]`)?.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") close(true);
      if (event.key === "Escape") close(false);
      if (event.key === "Enter" || event.key === "Escape") event.preventDefault();
    });
    field.addEventListener("blur", () => close(true));
    item.replaceChildren(field);
    field.select();
  }
}
