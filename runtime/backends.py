"""What runs a stream's graph: the protocol, and ONNX Runtime over a bundle's own graph.

Owns the logits, which a run leaves in one and the same array. The session and the state are `bound_graph`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from edgesink import names
from edgesink.manifest import Manifest
from edgesink.runtime.bound_graph import BoundGraph, RunOptions


class Backend(Protocol):
    """What a stream needs of whatever runs its graph."""

    most_rows: int  # of logits that one run gives, 1 for a graph that gives those of the last token only

    logits: np.ndarray  # float32 [V], after the last id fed; overwritten by the next run
    name: str  # what runs it, for people
    has_exact_rows: bool  # of several tokens a run, each to the bit what a run of that token alone gives
    can_hide: bool  # windows may be made to begin later than they have to
    in_memory: bool  # `state` gives the very memory of the graph, not a copy
    state_bytes: int  # of keys and values, from the first token to the last

    def feed(self, ids: np.ndarray, position: int, sinks: int, oldest: np.ndarray | None = None) -> None:
        """Run ids (int64 [T], at most a chunk) that stand at `position`, …, position + T - 1.

        `oldest` int64 [T]: no token before it is seen by each of them, sinks aside; only where `can_hide`.

        RunFailed if the run stops; it may then go on from `position`.
        """

    def feed_rows(
        self, ids: np.ndarray, position: int, sinks: int, rows: int, oldest: np.ndarray | None = None
    ) -> np.ndarray:
        """As `feed`; float32 [rows, V], the logits after each of the last `rows` ids, 2 … most_rows.

        The next call overwrites them; `logits` are as before.
        """

    def state(self) -> dict[str, np.ndarray]:
        """The state by name, [1, K, rows, D] each; on the CPU the very memory of the graph."""

    def written(self, position: int) -> dict[str, np.ndarray]:
        """The rows of the state that `position` tokens have written: [1, K, min(position, rows), D] each."""

    def rows(self, name: str) -> np.ndarray:
        """One state with the rows that are laid out now, [1, K, rows, D], to be read before the next run."""

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Overwrite the state."""

    def copy_state(self) -> dict[str, np.ndarray]:
        """A copy of the state, which `put_back` takes; of a young stream smaller than the state."""

    def put_back(self, copy: dict[str, np.ndarray]) -> None:
        """Overwrite the state with a copy of it, or of another stream's of the same bundle."""

    def another(self) -> Backend:
        """The same weights over a state of its own; the two are run one at a time."""


class OnnxBackend:
    """ONNX Runtime on the CPU, or on a GPU with the state resident there."""

    def __init__(self, bundle: Path, manifest: Manifest, options: RunOptions) -> None:
        self._bind(BoundGraph(bundle, manifest, options), manifest, options.device == "cpu")

    def _bind(self, graph: BoundGraph, manifest: Manifest, in_memory: bool) -> None:
        self._graph, self._manifest, self.in_memory = graph, manifest, in_memory
        self.name, self.state_bytes = graph.name, graph.state.bytes
        self.can_hide, self.has_exact_rows = graph.can_hide, graph.has_kernels
        self.most_rows = manifest.logit_rows or 1
        self._count, self._rows = np.ones(1, np.int64), np.zeros((0, manifest.vocab), np.float32)
        if self.most_rows > 1:
            graph.share_input(names.LOGIT_ROWS, self._count)
        self._logits = np.zeros((1, manifest.vocab), np.float32)
        graph.share_output(names.LOGITS, self._logits)
        self.logits = self._logits[0]
        self.feed = graph.run

    def copy_state(self) -> dict[str, np.ndarray]:
        """See `Backend.copy_state`."""
        return self._graph.state.copy()

    def put_back(self, copy: dict[str, np.ndarray]) -> None:
        """See `Backend.put_back`."""
        self._graph.state.put_back(copy)

    def another(self) -> OnnxBackend:
        """See `Backend.another`."""
        other = object.__new__(OnnxBackend)
        other._bind(self._graph.another(), self._manifest, self.in_memory)
        return other

    def feed_rows(
        self, ids: np.ndarray, position: int, sinks: int, rows: int, oldest: np.ndarray | None = None
    ) -> np.ndarray:
        """See `Backend.feed_rows`; their memory grows to the most that were asked for."""
        if len(self._rows) < rows:
            self._rows = np.zeros((rows, self._manifest.vocab), np.float32)
        given = self._rows[:rows]
        self._count[0] = rows
        self._graph.share_output(names.LOGITS, given)
        try:
            self._graph.run(ids, position, sinks, oldest)
        finally:
            self._count[0] = 1
            self._graph.share_output(names.LOGITS, self._logits)
        return given

    def state(self) -> dict[str, np.ndarray]:
        """See `Backend.state`."""
        return self._graph.state.arrays()

    def written(self, position: int) -> dict[str, np.ndarray]:
        """See `Backend.written`."""
        return self._graph.state.written(position)

    def rows(self, name: str) -> np.ndarray:
        """See `Backend.rows`."""
        return self._graph.state.rows(name)

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Backend.load_state`."""
        self._graph.state.load(state)
