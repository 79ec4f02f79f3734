"""The key/value buffers of one stream: bytes allocated once, and of the ring as many rows laid out as are in use.

A young stream has written few rows, and attention over the empty ones costs as much as over full ones: feeding a first
prompt of 1024 tokens spends half its attention on nothing. So the graph takes its state with any number of rows, and
here they grow, a few times and never beyond the ring's, within memory that was there from the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgesink import names
from edgesink.errors import BadBundle
from edgesink.manifest import Manifest, State

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}  # of a state, as ONNX Runtime says it
STEP = 128  # rows; fewer shapes than tokens, each of which ONNX Runtime plans its memory for


class RingState:
    """State bound to a graph, every buffer as input and as output, so that it is written in place.

    Args:
        session: of ONNX Runtime; a graph that wants a fixed number of rows gets them all.
        binding: of that session.
        manifest: of the bundle.
        device: "cpu", or "cuda", where all rows are laid out at once.
    """

    def __init__(self, session: Any, binding: Any, manifest: Manifest, device: str) -> None:
        inputs = {given.name: given for given in session.get_inputs()}
        _check_graph(inputs, manifest)
        dtypes = {state.name: TYPES[inputs[state.name].type] for state in manifest.states}
        grows = device == "cpu" and not isinstance(inputs[manifest.states[0].name].shape[2], int)
        views = [[state for state in manifest.states if state.view == view] for view in range(len(manifest.views))]
        pinned = [view.sinks for view in manifest.views]
        self._rings = [
            ViewState(binding, states, dtypes, device, grows, sinks)
            for states, sinks in zip(views, pinned, strict=True)
        ]

    @property
    def bytes(self) -> int:
        """Held from the first token to the last."""
        return sum(ring.bytes for ring in self._rings)

    def make_room(self, position: int, tokens: int, sinks: int) -> None:
        """Lay out the rows for `tokens` that stand at `position`, …; at position 0 what was there is forgotten."""
        for ring in self._rings:
            ring.make_room(position, tokens, sinks)

    def arrays(self) -> dict[str, np.ndarray]:
        """Every buffer with all its rows, [1, K, rows, D]; on the CPU the very memory of the graph."""
        return {name: array for ring in self._rings for name, array in ring.arrays().items()}

    def written(self, position: int) -> dict[str, np.ndarray]:
        """The rows of every buffer that a stream of `position` tokens has written; on the CPU the graph's memory."""
        return {name: array for ring in self._rings for name, array in ring.written(position).items()}

    def rows(self, name: str) -> np.ndarray:
        """One buffer as it is laid out now, [1, K, rows, D]; on the CPU the very memory of the graph."""
        return next(found for ring in self._rings if (found := ring.laid_out(name)) is not None)

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Overwrite every buffer, all rows; an array that `arrays` gave and that is the buffer itself is there."""
        for ring in self._rings:
            ring.load(state)

    def copy(self) -> dict[str, np.ndarray]:
        """A copy of the rows that are laid out, [1, K, rows, D] each."""
        return {name: array for ring in self._rings for name, array in ring.copy().items()}

    def put_back(self, copy: dict[str, np.ndarray]) -> None:
        """Lay out the rows that a copy has, and what it holds."""
        for ring in self._rings:
            ring.put_back(copy)


def _check_graph(inputs: Mapping[str, Any], manifest: Manifest) -> None:
    """BadBundle unless the graph takes every state of the manifest, in its shape and in a type that there is."""
    for state in manifest.states:
        found = inputs[state.name].shape if state.name in inputs else None
        fixed = [size if isinstance(size, int) else state.shape[axis] for axis, size in enumerate(found or ())]
        if fixed != list(state.shape):
            expected = f"{list(state.shape)}, as its manifest says"
            raise BadBundle(f"the graph's {state.name} has shape {found}", expected, "export the model again")
        if inputs[state.name].type not in TYPES:
            found = inputs[state.name].type
            raise BadBundle(f"the graph's {state.name} is {found}", " or ".join(TYPES), "export the model again")


class ViewState:
    """The buffers of layers that share a ring: they are laid out with the same number of rows.

    Args:
        states: as the manifest has them.
        dtypes: of each, by name, as the graph holds it.
        grows: whether fewer rows than all may be laid out.
        pinned: whether the ring has the stream's sinks.
    """

    def __init__(
        self,
        binding: Any,
        states: Sequence[State],
        dtypes: Mapping[str, type],
        device: str,
        grows: bool,
        pinned: bool,
    ) -> None:
        self._binding, self._device, self._grows, self._pinned = binding, device, grows, pinned
        _, self._heads, self._most, self._head_dim = states[0].shape
        self._memory: dict[str, np.ndarray] = {
            state.name: np.zeros(math.prod(state.shape), dtypes[state.name]) for state in states
        }
        self._values: dict[str, Any] = {}
        self._bind(self._most)

    @property
    def bytes(self) -> int:
        """Held from the first token to the last."""
        return sum(memory.nbytes for memory in self._memory.values())

    def make_room(self, position: int, tokens: int, sinks: int) -> None:
        """See `RingState.make_room`."""
        if not self._grows:
            return
        needed = max(position + tokens, sinks + 1 if self._pinned else 1)
        if position == 0:
            self._bind(rows_for(needed, 0, self._most))
        elif needed > self.rows:
            self._grow(rows_for(needed, self.rows, self._most))

    def arrays(self) -> dict[str, np.ndarray]:
        """See `RingState.arrays`."""
        self._grow(self._most)
        return {name: value.numpy() for name, value in self._values.items()}

    def written(self, position: int) -> dict[str, np.ndarray]:
        """See `RingState.written`."""
        return {name: value.numpy()[:, :, :position] for name, value in self._values.items()}

    def laid_out(self, name: str) -> np.ndarray | None:
        """See `RingState.rows`; None if it is a buffer of another ring."""
        found: np.ndarray | None = self._values[name].numpy() if name in self._values else None
        return found

    def load(self, state: dict[str, np.ndarray]) -> None:
        """See `RingState.load`."""
        self._bind(self._most)
        for name, value in self._values.items():
            if not np.may_share_memory(state[name], self._memory[name]):
                value.update_inplace(np.ascontiguousarray(state[name]))

    def copy(self) -> dict[str, np.ndarray]:
        """See `RingState.copy`."""
        return {name: value.numpy().copy() for name, value in self._values.items()}

    def put_back(self, copy: dict[str, np.ndarray]) -> None:
        """See `RingState.put_back`."""
        self._bind(next(copy[name].shape[2] for name in self._values))
        for name, value in self._values.items():
            value.update_inplace(copy[name])

    def _grow(self, rows: int) -> None:
        """More rows for every head, what they hold moved to where it belongs, the last head first."""
        if rows == self.rows:
            return
        for memory in self._memory.values():
            old, new = self._laid_out(memory, self.rows)[0], self._laid_out(memory, rows)[0]
            for head in range(self._heads - 1, 0, -1):
                new[head, : self.rows] = old[head]
        self._bind(rows)

    def _bind(self, rows: int) -> None:
        self.rows = rows
        for name, memory in self._memory.items():
            if self._device == "cpu" or name not in self._values:
                self._values[name] = ort_value(self._laid_out(memory, rows), self._device)
            self._binding.bind_ortvalue_input(name, self._values[name])
            self._binding.bind_ortvalue_output(names.updated(name), self._values[name])

    def _laid_out(self, memory: np.ndarray, rows: int) -> np.ndarray:
        """The front of a buffer's memory as [1, K, rows, D]."""
        shape = (1, self._heads, rows, self._head_dim)
        return memory[: self._heads * rows * self._head_dim].reshape(shape)


def rows_for(needed: int, rows: int, most: int) -> int:
    """How many rows to lay out where `rows` are and `needed` are wanted: a quarter more at least, at most `most`."""
    goal = max(needed, rows + rows // 4)
    return min(most, -(-goal // STEP) * STEP)


def ort_value(array: np.ndarray, device: str = "cpu") -> Any:
    """An OrtValue; on the CPU it shares the array's memory."""
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy(array, device, 0)
