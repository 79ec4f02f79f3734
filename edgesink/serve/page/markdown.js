// Owns Markdown blocks: cuts a text into blocks and makes a DOM node of each. Headings, lists, quotes, tables, rules,
// fenced code and paragraphs; HTML is text like any other. While an answer streams only its last block changes, so
// the nodes of the others stay (and with them what a reader has selected).

import { element } from "./dom.js";
import { inline } from "./inline.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s{0,9}\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(?:\s+|$)/;
const BEGINS_LIST = /^\s*(?:[-*+]|1[.)])\s+\S/; // within a paragraph: "1986. A year" does not
const TABLE = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
const DEEPEST = 8; // quotes and lists within each other; what is deeper is a paragraph

/** Make `container` show `text`, a child a block; a block whose source is unchanged keeps its node. */
export function showMarkdown(container, text) {
  const found = blocks(text);
  const shown = [...container.children];
  found.forEach((source, i) => {
    if (shown[i]?.source === source) return;
    const made = render(source);
    made.source = source;
    if (i < shown.length) shown[i].replaceWith(made);
    else container.append(made);
  });
  shown.slice(found.length).forEach((old) => old.remove());
}

/** The sources of the blocks of a text, in order. */
export function blocks(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const found = [];
  for (let i = 0; i < lines.length;) {
    const end = endOfBlock(lines, i);
    if (!empty(lines[i])) found.push(lines.slice(i, end).join("\n").trimEnd());
    i = end;
  }
  return found;
}

/** The line after the block that starts at line `i`. */
function endOfBlock(lines, i) {
  const rest = (goesOn) => {
    let end = i + 1;
    while (end < lines.length && goesOn(lines[end], lines[end + 1] ?? "")) end++;
    return end;
  };
  if (empty(lines[i]) || HEADING.test(lines[i])) return i + 1;
  const fence = FENCE.exec(lines[i]);
  if (fence) return Math.min(lines.length, rest((line) => !closes(line, fence[1])) + 1);
  if (RULE.test(lines[i])) return i + 1;
  if (QUOTE.test(lines[i])) return rest((line) => QUOTE.test(line));
  if (isTable(lines[i], lines[i + 1])) return rest((line) => line.includes("|"));
  if (ITEM.test(lines[i])) return rest((line, next) => inList(line) || (empty(line) && inList(next)));
  return rest((line, next) => !empty(line) && !begins(line, next));
}

const empty = (line) => line.trim() === "";
const closes = (line, fence) => line.trim().startsWith(fence) && line.trim().replaceAll(fence[0], "") === "";
const isTable = (line, next = "") => line.includes("|") && TABLE.test(next);
const inList = (line) => (ITEM.test(line) && !RULE.test(line)) || /^\s+\S/.test(line);
const STARTS = [FENCE, HEADING, RULE, QUOTE, BEGINS_LIST];
const begins = (line, next) => STARTS.some((kind) => kind.test(line)) || isTable(line, next);

function render(source, depth = 0) {
  const lines = source.split("\n");
  const fence = FENCE.exec(lines[0]);
  if (fence) return code(lines, fence);
  const heading = HEADING.exec(lines[0]);
  if (heading) {
    const level = Math.min(6, heading[1].length + 3); // below the headings of the page
    return element(`h${level}`, {}, ...inline(heading[2].replace(/ #+$/, "").trim()));
  }
  if (RULE.test(source)) return element("hr");
  if (QUOTE.test(lines[0]) && depth < DEEPEST) {
    const inner = blocks(lines.map((line) => line.replace(QUOTE, "")).join("\n"));
    return element("blockquote", {}, ...inner.map((block) => render(block, depth + 1)));
  }
  if (isTable(lines[0], lines[1])) return table(lines);
  if (ITEM.test(lines[0]) && depth < DEEPEST) return list(lines, depth);
  return element("p", {}, ...inline(lines.map((line) => line.trimStart()).join("\n")));
}

function code(lines, [, fence, language]) {
  const closed = lines.length > 1 && closes(lines.at(-1), fence);
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  const label = language ? `${language} code` : "code";
  return element("pre", { tabindex: 0, role: "group", "aria-label": label }, element("code", {}, text));
}

/** A list; what is indented under an item belongs to it, other lists too. */
function list(lines, depth) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= indent.length + 1) items.push([line.slice(item[0].length)]);
    else items.at(-1).push(line);
  }
  const made = items.map((own) => element("li", {}, ...itemNodes(own, depth)));
  return /\d/.test(mark) ? element("ol", { start: parseInt(mark, 10) }, ...made) : element("ul", {}, ...made);
}

function itemNodes([first, ...others], depth) {
  const indents = others.filter((line) => !empty(line)).map((line) => line.search(/\S/));
  const inner = blocks([first, ...others.map((line) => line.slice(Math.min(...indents)))].join("\n"));
  const nodes = inner.map((block) => render(block, depth + 1));
  return nodes[0]?.tagName === "P" ? [...nodes[0].childNodes, ...nodes.slice(1)] : nodes;
}

function table([head, , ...rows]) {
  const body = rows.map((line) => tableRow(line, "td"));
  const whole = element("table", {}, element("thead", {}, tableRow(head, "th")), element("tbody", {}, ...body));
  return element("div", { class: "table", tabindex: 0, role: "group", "aria-label": "table" }, whole);
}

function tableRow(line, name) {
  const cells = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "").split(/(?<!\\)\|/);
  const scope = name === "th" ? { scope: "col" } : {};
  return element("tr", {}, ...cells.map((cell) => element(name, scope, ...inline(cell.trim().replaceAll("\\|", "|")))));
}
