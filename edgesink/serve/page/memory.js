// Owns the arithmetic of the ring and the words for it. The numbers come from the server with each answer; counts are
// tokens. A stream reads tokens 0, 1, 2 … and sees the pinned first ones and the newest. Knows nothing of the page.

const number = new Intl.NumberFormat("en");

/** The parts of what a stream has read: pinned + forgotten + seen = position; `free` rows are still empty. The server
 * lists the passages that came back for the last answer; here they are counted. */
export function parts({ position = 0, capacity, sinks = 0, evicted = 0, recalled = [] }) {
  const pinned = Math.min(sinks, position);
  const seen = Math.max(0, position - evicted - pinned);
  const free = Math.max(0, capacity - pinned - seen);
  return { position, capacity, pinned, forgotten: evicted, seen, free, recalled: recalled.length };
}

/** What became of the tokens start … end - 1 of a stream: "pinned", "seen", "partly" (seen) or "forgotten". */
export function fate(start, end, { pinned, forgotten }) {
  const seenFrom = pinned + forgotten;
  if (end <= pinned) return "pinned";
  if (forgotten === 0 || Math.max(start, pinned) >= seenFrom) return "seen";
  return end <= seenFrom ? "forgotten" : "partly";
}

/** The fate of each turn, "unknown" where a turn has no place in the stream: it was never answered, or another system
 * prompt has moved all places since. What stands before a forgotten turn is forgotten too. (Where a server has read a
 * conversation anew, say after a restart, its turns have the same places but for a few tokens.) */
export function fates(turns) {
  const newest = turns.findLast(({ ring }) => ring);
  if (!newest) return turns.map(() => "unknown");
  const now = parts(newest.ring);
  let start = 0;
  const found = turns.map(({ ring, system }) => {
    if (!ring || system !== newest.system) return "unknown";
    const own = fate(start, ring.position, now);
    start = ring.position;
    return own;
  });
  const last = found.lastIndexOf("forgotten");
  return found.map((own, i) => (own === "unknown" && i < last ? "forgotten" : own));
}

/** The arcs of the newest `seen` tokens as [row, length, age]: the newest first with age 0, the oldest last with age 1.
 * None passes the end of the ring, where the pinned rows begin. */
export function arcs({ position, capacity, pinned, seen }, pieces = 48) {
  const rows = capacity - pinned; // that the window goes round in
  const found = [];
  for (let piece = 0; piece < pieces && seen > 0; piece++) {
    const length = seen / pieces;
    const back = position - pinned - (piece + 1) * length; // tokens after the pinned ones, before this arc
    const from = ((back % rows) + rows) % rows;
    const first = Math.min(length, rows - from);
    const age = pieces > 1 ? piece / (pieces - 1) : 0;
    found.push([pinned + from, first, age]);
    if (length - first > 1e-9) found.push([pinned, length - first, age]);
  }
  return found;
}

/** One or two sentences that say what the picture shows. */
export function sentence({ position, capacity, pinned, forgotten, seen, free, recalled }, stateBytes) {
  const always = stateBytes ? ` Its memory is ${megabytes(stateBytes)}, however long you talk.` : "";
  const passages = recalled === 1 ? "passage" : "passages";
  const back = recalled > 0 ? ` ${recalled} earlier ${passages} came back for the last answer.` : "";
  if (position === 0) return `Nothing read yet. The model sees ${tokens(capacity)} at a time.${always}`;
  if (forgotten === 0) {
    return `The model has read ${tokens(position)} and sees all of them; ${number.format(free)} more fit before it ` +
      `starts to forget.${back}${always}`;
  }
  const first = pinned > 0 ? `the first ${number.format(pinned)}, which are pinned, and ` : "";
  return `The model has read ${tokens(position)}. It sees ${first}the newest ${number.format(seen)}; ` +
    `${number.format(forgotten)} are forgotten.${back}${always}`;
}

export const tokens = (count) => `${number.format(count)} ${count === 1 ? "token" : "tokens"}`;
export const grouped = (count) => number.format(count);
export const megabytes = (bytes) => `${number.format(Math.round(bytes / 1e5) / 10)} MB`;
