// Owns Markdown blocks: it cuts a text into blocks and makes a DOM node of each. Headings, lists, quotes, tables, rules,
// fenced code and paragraphs; HTML is text like any other. While an answer streams only its last block changes, so
// the nodes of the others stay (and with them what a reader has selected).

import { element } from "./dom.js";
import { inline } from "./inline.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(?:\s+|$)/;
const TABLE = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

/** Make `container` show `text`; blocks whose source is unchanged keep their nodes. Returns how many blocks there are. */
export function showMarkdown(container, text) {
  const found = blocks(text);
  found.forEach((source, i) => {
    const old = container.children[i];
    if (old?.source === source) return;
    const made = render(source);
    made.source = source;
    if (old) old.replaceWith(made);
    else container.append(made);
  });
  while (container.children.length > found.length) container.lastElementChild.remove();
  return found.length;
}

/** The sources of the blocks of a text, in order. */
export function blocks(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const found = [];
  for (let i = 0; i < lines.length;) {
    const end = endOfBlock(lines, i);
    if (lines[i].trim() !== "") found.push(lines.slice(i, end).join("\n").trimEnd());
    i = end;
  }
  return found;
}

/** The line after the block that starts at line `i`. */
function endOfBlock(lines, i) {
  const rest = (goesOn) => {
    let end = i + 1;
    while (end < lines.length && goesOn(lines[end], end)) end++;
    return end;
  };
  if (lines[i].trim() === "" || HEADING.test(lines[i])) return i + 1;
  const fence = FENCE.exec(lines[i]);
  if (fence) return Math.min(lines.length, rest((line) => !closes(line, fence[1])) + 1);
  if (RULE.test(lines[i])) return i + 1;
  if (QUOTE.test(lines[i])) return rest((line) => QUOTE.test(line));
  if (isTable(lines, i)) return rest((line) => line.includes("|"));
  if (ITEM.test(lines[i])) {
    return rest((line, at) => ITEM.test(line) || /^\s+\S/.test(line) || (line.trim() === "" && /^\s+\S/.test(lines[at + 1] ?? "")) ||
      (line.trim() === "" && ITEM.test(lines[at + 1] ?? "")));
  }
  return rest((line, at) => line.trim() !== "" && !starts(lines, at));
}

const closes = (line, fence) => new RegExp(`^ {0,3}${fence[0]}{${fence.length},}\\s*$`).test(line);
const isTable = (lines, i) => lines[i].includes("|") && TABLE.test(lines[i + 1] ?? "") && (lines[i + 1] ?? "").includes("-");
const starts = (lines, i) => [FENCE, HEADING, RULE, QUOTE].some((kind) => kind.test(lines[i])) || isTable(lines, i) ||
  /^\s*(?:[-*+]|1[.)])\s+\S/.test(lines[i]);

function render(source) {
  const lines = source.split("\n");
  const fence = FENCE.exec(lines[0]);
  if (fence) return code(lines, fence);
  const heading = lines.length === 1 && HEADING.exec(source);
  if (heading) return element(`h${Math.min(6, heading[1].length + 3)}`, {}, ...inline(heading[2]));
  if (RULE.test(source)) return element("hr");
  if (QUOTE.test(lines[0])) {
    return element("blockquote", {}, ...blocks(lines.map((line) => line.replace(QUOTE, "")).join("\n")).map(render));
  }
  if (isTable(lines, 0)) return table(lines);
  if (ITEM.test(lines[0])) return list(lines);
  return element("p", {}, ...inline(lines.map((line) => line.replace(/^\s+/, "")).join("\n")));
}

function code(lines, [, fence, language]) {
  const closed = lines.length > 1 && closes(lines.at(-1), fence);
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  return element("pre", { tabindex: 0, "aria-label": language ? `${language} code` : "code", role: "group" }, element("code", {}, text));
}

/** A list; what is indented under an item belongs to it, lists too. */
function list(lines) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const numbered = /\d/.test(mark);
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= indent.length + 1) items.push([line.slice(item[0].length)]);
    else items.at(-1).push(line);
  }
  const made = items.map((own) => {
    const [first, ...others] = own;
    const depth = Math.min(...others.filter((line) => line.trim()).map((line) => line.search(/\S/)), 8);
    const inner = blocks([first, ...others.map((line) => line.slice(depth))].join("\n"));
    return element("li", {}, ...inner.flatMap((block, i) => (i === 0 && !/^(```|~~~)/.test(block) ? unwrapped(render(block)) : [render(block)])));
  });
  return element(numbered ? "ol" : "ul", numbered ? { start: parseInt(mark, 10) } : {}, ...made);
}

const unwrapped = (made) => (made.tagName === "P" ? [...made.childNodes] : [made]);

function table([head, , ...rows]) {
  const cells = (line) => line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/).map((cell) => inline(cell.trim().replaceAll("\\|", "|")));
  const row = (line, name) => element("tr", {}, ...cells(line).map((cell) => element(name, name === "th" ? { scope: "col" } : {}, ...cell)));
  return element("div", { class: "table", tabindex: 0, role: "group", "aria-label": "table" },
    element("table", {}, element("thead", {}, row(head, "th")), element("tbody", {}, ...rows.map((line) => row(line, "td")))));
}
