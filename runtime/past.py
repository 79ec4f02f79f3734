"""The last ids of a stream, as many as its ring holds: what was said before is what will most likely be said again.

Owns their memory, which does not grow, and the search for what followed the last time. Knows ids, not probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LONGEST = 16  # ids that a match is told apart by; longer ones count as that


@dataclass(frozen=True)
class Guess:
    """What followed the last time that the stream's last ids were there."""

    matched: int  # last ids that were the same, 1 … LONGEST
    ids: tuple[int, ...]  # that followed

    def rest(self) -> Guess:
        """The guess once its first id has come true."""
        return Guess(min(self.matched + 1, LONGEST), self.ids[1:])


class Past:
    """The last ids of a stream.

    Args:
        size: ids that are searched, the ring's capacity.
        spare: ids that may be taken back without losing any that are searched.
    """

    def __init__(self, size: int, spare: int) -> None:
        self._size, self._keep = size, size + spare
        self._ids = np.zeros(2 * self._keep, np.int64)
        self._end = 0

    def append(self, ids: np.ndarray) -> None:
        """Ids [n] that were fed; those that `drop` took back are gone for good."""
        ids = ids[-self._keep :]
        if self._end + len(ids) > len(self._ids):
            kept = min(self._end, self._keep)
            self._ids[:kept] = self._ids[self._end - kept : self._end]
            self._end = kept
        self._ids[self._end : self._end + len(ids)] = ids
        self._end += len(ids)

    def drop(self, count: int) -> None:
        """Take back the last ids."""
        self._end = max(0, self._end - count)

    def again(self, count: int) -> None:
        """Take up the next ids that `drop` took back, if nothing was appended since."""
        self._end += count

    def clear(self) -> None:
        self._end = 0

    def latest(self) -> np.ndarray:
        """The ids that are searched, int64 [n], oldest first."""
        return self._ids[max(0, self._end - self._size) : self._end]

    def guess_after(self, next_id: int, count: int) -> Guess | None:
        """The `count` ids that followed the longest earlier match of the last ids and `next_id`, of several the latest.

        None where `next_id` is new. Where the match reaches up to the end, the text repeats itself, and so does the
        guess.
        """
        ids = self.latest()
        at = np.flatnonzero(ids == next_id)  # where the last matched id stands
        if not len(at):
            return None
        matched = 1
        while matched < min(LONGEST, len(ids) + 1):
            longer = at[at >= matched]
            longer = longer[ids[longer - matched] == ids[len(ids) - matched]]
            if not len(longer):
                break
            at, matched = longer, matched + 1
        followed = np.append(ids[at[-1] + 1 :], next_id)
        return Guess(matched, tuple(np.resize(followed, count).tolist()))
