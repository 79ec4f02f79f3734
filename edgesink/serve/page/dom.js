// Owns how this page makes elements. Text becomes text nodes and nothing else: no markup is ever parsed from a string,
// and the policy in index.html (Trusted Types) lets the browser refuse it too.

const SVG = "http://www.w3.org/2000/svg";

/** The element of index.html with this id. */
export const byId = (id) => document.getElementById(id);

/** A new HTML element. Properties that start with "on" are listeners; children are nodes or text. */
export function element(name, properties = {}, ...children) {
  return filled(document.createElement(name), properties, children);
}

/** A new SVG element. */
export function shape(name, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, name), properties, children);
}

/** A button with a visible label. */
export function button(label, onclick, properties = {}) {
  return element("button", { type: "button", onclick, ...properties }, label);
}

/** The buttons at the end of a form: away from it, or its purpose. */
export function choices(oncancel, yes, kind = "primary") {
  const submit = element("button", { type: "submit", class: kind }, yes);
  return element("div", { class: "choices" }, button("Cancel", oncancel), submit);
}

function filled(made, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** Show something that went wrong, until the next action; without a text the notice goes away. */
export function notice(text = "") {
  const line = byId("notice");
  line.hidden = text === "";
  line.textContent = text;
}
