"""Going back in a stream by any number of tokens, exactly: rows of the ring are kept before they are overwritten.

Owns the rows that were overwritten since a few checkpoints, within a number of bytes. A ring that has not gone round
overwrites nothing, so a checkpoint then costs nothing; later it costs a row for each token that was fed since, at most
one ring. Rows lie in the memory of the graph, so this is for the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edgesink.manifest import Manifest
from edgesink.ring import Ring

AHEAD = 32  # rows that are kept at once: one token's rows would be as many copies as there are states

State = Callable[[], dict[str, np.ndarray]]
"""Gives the state by name, [1, K, rows, D] each, the very memory of the graph."""


@dataclass
class Kept:
    """The rows that tokens since one checkpoint overwrote."""

    position: int  # of the checkpoint
    reached: list[int]  # for each view, the token before which all is kept
    rows: list[tuple[np.ndarray, dict[str, np.ndarray]]] = field(default_factory=list)  # numbers, contents
    bytes: int = 0


class Journal:
    """Checkpoints of one stream, the last ones that fit.

    Args:
        manifest: of the bundle.
        state: of the stream.
        most_bytes: of rows that are kept at most. One ring's worth, `Manifest.state_bytes`, is enough for the last
            checkpoint whatever was fed since.
    """

    def __init__(self, manifest: Manifest, state: State, most_bytes: int) -> None:
        self._manifest, self._state, self._most_bytes = manifest, state, most_bytes
        self._kept: list[Kept] = []

    @property
    def positions(self) -> list[int]:
        """Those that can be gone back to, the oldest first."""
        return [kept.position for kept in self._kept]

    @property
    def bytes(self) -> int:
        """Held now."""
        return sum(kept.bytes for kept in self._kept)

    def clear(self) -> None:
        """Forget every checkpoint: the stream is another."""
        self._kept.clear()

    def checkpoint(self, position: int) -> None:
        """From now on the stream can be taken back to `position`, where it stands."""
        self._kept.append(Kept(position, [position] * len(self._manifest.views)))

    def before(self, position: int, size: int, sinks: int) -> None:
        """Keep what the tokens position … position+size-1 are about to overwrite."""
        if not self._kept:
            return
        kept, state = self._kept[-1], None
        for view, layer_ring in enumerate(self._manifest.views):
            ring = self._manifest.stream.layer_ring(layer_ring, sinks)
            first = max(kept.reached[view], ring.rows)  # a token before that found its row empty
            end = min(position + size, kept.position + ring.slots)  # one from there on overwrites a token since
            if first >= end:
                continue
            end = min(first + max(end - first, AHEAD), kept.position + ring.slots)
            state = state or self._state()
            self._keep(kept, view, ring, range(first, end), state)
        while len(self._kept) > 1 and self.bytes > self._most_bytes:
            del self._kept[0]
        if self.bytes > self._most_bytes:
            self._kept.clear()

    def _keep(self, kept: Kept, view: int, ring: Ring, tokens: range, state: dict[str, np.ndarray]) -> None:
        rows = np.array([ring.slot(token) for token in tokens])
        names = [one.name for one in self._manifest.states if one.view == view]
        held = {name: state[name][:, :, rows] for name in names}  # copies
        kept.rows.append((rows, held))
        kept.bytes += sum(array.nbytes for array in held.values())
        kept.reached[view] = tokens.stop

    def merge(self) -> None:
        """Drop the last checkpoint; what was kept for it is kept for the one before."""
        last = self._kept.pop() if self._kept else None
        if last is not None and self._kept:
            before = self._kept[-1]
            before.rows += last.rows
            before.bytes += last.bytes
            before.reached = [max(pair) for pair in zip(before.reached, last.reached, strict=True)]

    def back(self) -> int:
        """Put back what the last checkpoint saw, and drop it; its position. At least one must be there."""
        kept = self._kept.pop()
        state = self._state() if kept.rows else {}
        for rows, held in reversed(kept.rows):
            for name, array in held.items():
                state[name][:, :, rows] = array
        return kept.position
