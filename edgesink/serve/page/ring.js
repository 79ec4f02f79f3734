// Owns the live picture of the ring: a circle with one unit of length a token, a strip of the whole conversation, and
// the numbers below. What they mean is said in memory.js. Knows nothing of conversations.

import { byId, element, shape } from "./dom.js";
import { arcs, grouped, parts, sentence } from "./memory.js";

const CENTRE = 110;
const RADIUS = 84;
const WORDS = { // part -> [name, what it means]; the classes of style.css
  pinned: ["Pinned", "the beginning, never forgotten"],
  seen: ["Seen", "the newest, the brightest is the latest"],
  forgotten: ["Forgotten", "read once, then overwritten"],
  recalled: ["Recalled", "passages that came back for the last answer"],
};

/** Draw a state of the stream: {position, capacity, sinks, evicted, recalled}. */
export function drawRing(state, stateBytes) {
  const now = parts(state);
  byId("ring").replaceChildren(...circle(now));
  byId("ring").setAttribute("viewBox", `0 0 ${2 * CENTRE} ${2 * CENTRE}`);
  byId("strip").replaceChildren(...strip(now));
  byId("memory-words").textContent = sentence(now, stateBytes);
  byId("numbers").replaceChildren(...numbers(now));
}

function circle(now) {
  const drawn = [shape("circle", { class: "free", cx: CENTRE, cy: CENTRE, r: RADIUS })];
  for (const [row, length, age] of arcs(now).reverse()) { // the newest last: each hides the seam of the one before
    const made = arc("seen", row, length, now);
    made.style.setProperty("--age", age.toFixed(3));
    drawn.push(made);
  }
  if (now.pinned > 0) drawn.push(arc("pinned", 0, now.pinned, now));
  for (let i = 0; i < Math.min(now.recalled, 12); i++) { // a dash a passage, by the pinned tokens that it stands in for
    drawn.push(arc("recalled", (i * now.capacity) / 24, now.capacity / 32, now, { r: RADIUS - 18 }));
  }
  if (now.forgotten > 0) drawn.push(shape("circle", { class: "forgotten", cx: CENTRE, cy: CENTRE, r: RADIUS + 18 }));
  if (now.position > now.pinned) drawn.push(head(now));
  drawn.push(
    shape("text", { class: "count", x: CENTRE, y: CENTRE + 6 }, grouped(now.position)),
    shape("text", { class: "unit", x: CENTRE, y: CENTRE + 26 }, now.position === 1 ? "token read" : "tokens read"),
  );
  return drawn;
}

/** `length` tokens of the ring from `row` on, clockwise from the top. */
function arc(part, row, length, { capacity }, more = {}) {
  return shape("circle", {
    class: part, cx: CENTRE, cy: CENTRE, r: RADIUS, pathLength: capacity,
    "stroke-dasharray": `${length + capacity / 400} ${capacity}`, "stroke-dashoffset": -row,
    transform: `rotate(-90 ${CENTRE} ${CENTRE})`, ...more,
  });
}

/** A mark where the next token is written. */
function head({ position, capacity, pinned }) {
  const row = pinned + ((position - pinned) % (capacity - pinned));
  const turn = (360 * row) / capacity;
  const transform = `translate(${CENTRE} ${CENTRE}) rotate(${turn})`;
  return shape("path", { class: "head", d: "M 0 -70 l -6 11 h 12 z", transform });
}

/** The conversation from its first token to its last, as wide as the strip; a part that exists is never invisible. */
function strip({ pinned, forgotten, seen, free }) {
  const all = [["pinned", pinned], ["forgotten", forgotten], ["seen", seen], ["free", free]];
  const total = all.reduce((sum, [, count]) => sum + count, 0);
  const shown = all.filter(([, count]) => count > 0).map(([part, count]) => [part, Math.max(0.03, count / total)]);
  const scale = 100 / shown.reduce((sum, [, share]) => sum + share, 0);
  let x = 0;
  return shown.map(([part, share]) => {
    const width = share * scale;
    x += width;
    return shape("rect", { class: part, x: `${x - width}%`, y: 0, width: `${width}%`, height: "100%" });
  });
}

function numbers(now) {
  return Object.entries(WORDS)
    .filter(([part]) => part !== "recalled" || now.recalled > 0)
    .flatMap(([part, [name, meaning]]) => [
      element("dt", { class: part }, name),
      element("dd", {}, element("b", {}, grouped(now[part])), ` ${meaning}`),
    ]);
}
