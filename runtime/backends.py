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
    in_memory: bool  # `state` gives the very memory of the graph, not a copy
    state_bytes: int  # of keys and values, from the first token to the last

    def feed(self, ids: np.ndarray, position: int, sinks: int) -> None:
        """Run ids (int64 [T], at most a chunk) that stand at `position`, …, position + T - 1.

        RunFailed if the run stops; it may then go on from `position`.
        """

    def state(self) -> dict[str, np.ndarray]:
        """The state by name, [1, K, rows, D] each; on the CPU the very memory of the graph."""

    def rows(self, name: str) -> np.ndarray:
        """One state with the rows that are laid out now, [1, K, rows, D], to be read before the next run."""

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Overwrite the state."""


class OnnxBackend:
    """ONNX Runtime on the CPU, or on a GPU with the state resident there."""

    def __init__(self, bundle: Path, manifest: Manifest, options: RunOptions) -> None:
        self._graph = BoundGraph(bundle, manifest, options)
        self.in_memory = options.device == "cpu"
        self.name, self.state_bytes = self._graph.name, self._graph.state.bytes
        logits = np.zeros((1, manifest.vocab), np.float32)
        self._graph.share_output(names.LOGITS, logits)
        self.logits = logits[0]
        self.feed = self._graph.run

    def state(self) -> dict[str, np.ndarray]:
        """See `Backend.state`."""
        return self._graph.state.arrays()

    def rows(self, name: str) -> np.ndarray:
        """See `Backend.rows`."""
        return self._graph.state.rows(name)

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Backend.load_state`."""
        self._graph.state.load(state)
