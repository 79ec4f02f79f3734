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

    logits: np.ndarray  # float32 [V], after the last id fed; overwritten by the next run
    name: str  # what runs it, for people
    state_bytes: int  # of keys and values, from the first token to the last

    def feed(self, ids: np.ndarray, position: int, sinks: int) -> None:
        """Run ids (int64 [T], at most a chunk) that stand at `position`, …, position + T - 1.

        RunFailed if the run stops; it may then go on from `position`.
        """

    def state(self) -> dict[str, np.ndarray]:
        """The state by name, [1, K, rows, D] each; on the CPU the very memory of the graph."""

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
        self._bind(BoundGraph(bundle, manifest, options), manifest.vocab)

    def _bind(self, graph: BoundGraph, vocab: int) -> None:
        self._graph = graph
        self.name, self.state_bytes = graph.name, graph.state.bytes
        logits = np.zeros((1, vocab), np.float32)
        graph.share_output(names.LOGITS, logits)
        self.logits = logits[0]
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
        other._bind(self._graph.another(), len(self.logits))
        return other

    def state(self) -> dict[str, np.ndarray]:
        """See `Backend.state`."""
        return self._graph.state.arrays()

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Backend.load_state`."""
        self._graph.state.load(state)
