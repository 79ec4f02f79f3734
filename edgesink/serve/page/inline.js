// Owns Markdown within a line: code, bold, italic, struck out, links. Returns DOM nodes; what is none of these is text.
// A link is made only to http, https or mailto, and a picture is shown as a link: the page loads nothing. Every part
// has a longest length, so that a model that repeats one mark a thousand times costs no more than other text.

import { element } from "./dom.js";

const LABEL = /\[(?<label>(?:[^[\]\\]|\\.|\[[^[\]]{0,200}\]){0,600})\]/;
const TARGET = /\(\s{0,9}<?(?<address>[^\s<>()]{0,2000}(?:\([^\s()]{0,200}\)[^\s<>()]{0,200}){0,9})>?/;
const TITLE = /(?:\s{1,9}"[^"]{0,200}")?\s{0,9}\)/;
const SPAN = new RegExp([
  /\\(?<mark>[!-/:-@[-`{-~])/,
  /(?<!`)(?<ticks>`{1,9})(?!`)(?<code>[^]{0,4000}?[^`])\k<ticks>(?!`)/,
  new RegExp(`!?${LABEL.source}${TARGET.source}${TITLE.source}`),
  /(?<two>\*\*|__)(?=\S)(?<bold>[^]{0,1000}?\S)\k<two>(?![*_])/,
  /(?<![*\p{L}\p{N}_])(?<one>[*_])(?![\s*_])(?<italic>[^]{0,1000}?[^\s\\])\k<one>(?![\p{L}\p{N}_*])/u,
  /~~(?=\S)(?<struck>[^]{0,1000}?\S)~~/,
  /(?<bare>https?:\/\/[^\s<>"'`\]]{0,2000}[^\s<>"'`\].,;:!?)*])/,
].map(({ source }) => source).join("|"), "gu");

/** The nodes of a piece of Markdown without blocks. */
export function inline(text) {
  const nodes = [];
  let done = 0;
  for (const match of text.matchAll(SPAN)) {
    nodes.push(...lines(text.slice(done, match.index)), node(match[0], match.groups));
    done = match.index + match[0].length;
  }
  nodes.push(...lines(text.slice(done)));
  return nodes;
}

function node(whole, { mark, code, label, address, bold, italic, struck, bare }) {
  if (mark !== undefined) return mark;
  if (code !== undefined) return element("code", {}, unpadded(code));
  if (address !== undefined) return link(address, label === "" ? [address] : inline(label), whole);
  if (bold !== undefined) return element("strong", {}, ...inline(bold));
  if (italic !== undefined) return element("em", {}, ...inline(italic));
  if (struck !== undefined) return element("s", {}, ...inline(struck));
  return link(bare, [bare], whole);
}

function link(address, label, whole) {
  if (!/^(https?:\/\/|mailto:)/i.test(address)) return whole;
  return element("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, ...label);
}

/** Code that begins and ends with a space, so that it can hold a tick at its edge, is shown without them. */
function unpadded(code) {
  return code.trim() !== "" && code.startsWith(" ") && code.endsWith(" ") ? code.slice(1, -1) : code;
}

/** Text, broken where a line ends with two spaces or a backslash. */
function lines(text) {
  const parts = text.split(/(?: {2,9}|\\)\n/);
  return parts.flatMap((part, i) => [...(i > 0 ? [element("br")] : []), ...(part === "" ? [] : [part])]);
}
