// Owns Markdown within a line: code, bold, italic, struck out, links. Returns DOM nodes; whatever is not one of these is
// text. A link is made only to http, https or mailto, and a picture is shown as a link: the page loads nothing.

import { element } from "./dom.js";

const SPAN = new RegExp([
  /\\([!-/:-@[-`{-~])/, // 1: an escaped punctuation mark
  /(`+)(?!`)([^]*?[^`])\2(?!`)/, // 2, 3: code
  /!?\[((?:[^[\]\\]|\\.|\[[^[\]]*\])*)\]\(\s*<?([^\s()<>]*(?:\([^\s()]*\)[^\s()<>]*)*)>?(?:\s+"[^"]*")?\s*\)/, // 4, 5: link
  /(\*\*|__)(?=\S)([^]*?\S)\6(?![*_])/, // 6, 7: bold
  /(?<![*\p{L}\p{N}_])([*_])(?![\s*_])([^]*?[^\s\\])\8(?![\p{L}\p{N}_*])/, // 8, 9: italic
  /~~(?=\S)([^]*?\S)~~/, // 10: struck out
  /(https?:\/\/[^\s<>"'`\]]*[^\s<>"'`\].,;:!?)])/, // 11: a bare address
].map((part) => part.source).join("|"), "gu");

/** The nodes of a piece of Markdown without blocks. */
export function inline(text) {
  const nodes = [];
  let done = 0;
  for (const match of text.matchAll(SPAN)) {
    nodes.push(...lines(text.slice(done, match.index)), node(match));
    done = match.index + match[0].length;
  }
  nodes.push(...lines(text.slice(done)));
  return nodes;
}

function node([whole, mark, , code, label, address, , bold, , italic, struck, bare]) {
  if (mark !== undefined) return mark;
  if (code !== undefined) return element("code", {}, code.replace(/^ (.*\S.*) $/s, "$1"));
  if (address !== undefined) return link(address, inline(label), whole);
  if (bold !== undefined) return element("strong", {}, ...inline(bold));
  if (italic !== undefined) return element("em", {}, ...inline(italic));
  if (struck !== undefined) return element("s", {}, ...inline(struck));
  return link(bare, [bare], whole);
}

function link(address, label, whole) {
  const safe = /^(https?:\/\/|mailto:)/i.test(address);
  if (!safe) return whole;
  return element("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, ...(label.length ? label : [address]));
}

/** Two spaces or a backslash at the end of a line break it. */
function lines(text) {
  return text.split(/(?: {2,}|\\)\n/).flatMap((line, i) => (i === 0 ? [line] : [element("br"), line])).filter((line) => line !== "");
}
