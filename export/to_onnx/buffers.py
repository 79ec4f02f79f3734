"""The state in a graph of standard operators: it goes in, is written and comes out; a runner binds both to one memory.

Owns the key and value buffers of the layers that share a ring, and where the rows of a step go in them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgesink import names
from edgesink.export.rows import Heads
from edgesink.export.to_onnx.builder import Graph, Value


class OnnxBuffers:
    """Buffers float32 [1, K, rows, D], each declared when it is first used; satisfies `attention.CountedBuffers`.

    layers: those that share the ring. rows: the symbol of their length, which the runner chooses; no other ring's.
    """

    def __init__(self, graph: Graph, layers: Sequence[int], heads: Heads, rows: str) -> None:
        self._graph, self._layers, self._keys = graph, layers, heads.keys
        self._shape: list[int | str] = [1, heads.keys, rows, heads.dim]
        self._given: dict[str, Value] = {}
        self._indices: dict[str, Value] = {}  # by the name of the slots

    def row_numbers(self) -> Value:
        return self._graph.numbers(self._buffer(names.key(self._layers[0])), axis=2)

    def update(self, layer: int, slot: Value, k: Value, v: Value) -> tuple[Value, Value]:
        assert layer in self._layers, f"layer {layer} has another ring"
        indices = self._write_indices(slot)
        return self._written(names.key(layer), indices, k), self._written(names.value(layer), indices, v)

    def _written(self, name: str, indices: Value, rows: Value) -> Value:
        """The buffer `name` with `rows` [1, K, T, D] written: read in, written, handed out."""
        out = self._graph.node("ScatterND", self._buffer(name), indices, rows, name=names.updated(name))
        self._graph.output(out, self._shape)
        return out

    def _buffer(self, name: str) -> Value:
        """The buffer `name` as it comes in, declared once."""
        if name not in self._given:
            self._given[name] = self._graph.input(name, np.float32, self._shape)
        return self._given[name]

    def _write_indices(self, slot: Value) -> Value:
        """Where the rows go, for every key/value head: int64 [1, K, T, 3] of (0, head, slot)."""
        if slot.name not in self._indices:
            graph, heads = self._graph, self._keys
            length = graph.node("Shape", slot, dtype=np.int64)  # [1]
            shape = graph.node(
                "Concat", graph.constant([1, heads], np.int64), length, graph.constant([1], np.int64), axis=0
            )
            head = graph.constant(np.arange(heads).reshape(1, heads, 1, 1))
            zero = graph.constant(np.zeros((1, 1, 1, 1), np.int64))
            parts = [zero, head, graph.reshape(slot, 1, 1, -1, 1)]
            self._indices[slot.name] = graph.node("Concat", *(graph.node("Expand", p, shape) for p in parts), axis=3)
        return self._indices[slot.name]
