"""Rows of blocks by standard operators: the embedding of a step's tokens, unpacked when it is looked up.

Owns the way from the groups of rows that lie in the file (`layout`) to floats of some rows. Nothing of the table is
unpacked beforehand: it stays in the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgesink.export.blocks import BLOCK, IQ4_VALUES
from edgesink.export.to_onnx.builder import Graph, Value
from edgesink.export.to_onnx.layout import GROUP, WORD
from edgesink.export.to_onnx.weights import Stored


def looked_up(graph: Graph, ids: Value, weight: Stored) -> Value:
    """ids [1, T] -> float32 [1, T, K]."""
    rows = _Rows(graph, weight, graph.reshape(ids, -1))
    if weight.is_halves:
        return graph.reshape(graph.cast(rows.part("floats"), np.float32), 1, -1, weight.columns)
    scaled = rows.values() * graph.unsqueeze(rows.multiplied("scale", "factors"), 2)
    if weight.has_offset:
        blocks = graph.reshape(scaled, -1, weight.columns // BLOCK, BLOCK)
        scaled = blocks + graph.unsqueeze(rows.multiplied("offset", "offset_factors"), 2)
    return graph.reshape(scaled, 1, -1, weight.columns)


@dataclass(frozen=True)
class _Rows:
    """The rows `ids` [T] of a matrix."""

    graph: Graph
    weight: Stored
    ids: Value

    def values(self) -> Value:
        """What a step of the codes is multiplied by: float32 [T, K / block, block]."""
        graph, weight = self.graph, self.weight
        shape = (-1, weight.columns // weight.block, weight.block)
        if weight.is_table:
            codes = graph.cast(self.codes(), np.int32)
            table = graph.constant(IQ4_VALUES.astype(np.float32))
            return graph.reshape(graph.node("Gather", table, codes, dtype=np.float32), *shape)
        counted = graph.reshape(graph.cast(self.codes(), np.float32), *shape)
        return counted if weight.has_offset else counted - float(1 << (weight.bits - 1))

    def codes(self) -> Value:
        """uint8 [T, K / 32, 32]."""
        graph, bits, count = self.graph, self.weight.bits, self.weight.columns // BLOCK
        words = graph.reshape(self.part("codes"), -1, count, bits * WORD)
        if bits == 8:
            return words
        nibbles = graph.slice(words, 0, 4 * WORD, axis=2)
        low = graph.node("Concat", graph.node("BitwiseAnd", nibbles, 15), self._shifted(nibbles, 4, "RIGHT"), axis=2)
        if bits == 4:
            return low
        width = bits - 4  # bits of a code in the words behind; [T, K / 32, words, places in a byte, 4]
        more = graph.reshape(graph.slice(words, 4 * WORD, bits * WORD, axis=2), -1, count, width, 1, WORD)
        places = graph.constant(np.arange(0, 8, width, dtype=np.uint8)[:, None])
        high = graph.node("BitwiseAnd", self._shifted(more, places, "RIGHT"), (1 << width) - 1)
        return graph.node("BitwiseOr", low, self._shifted(graph.reshape(high, -1, count, BLOCK), 4, "LEFT"))

    def multiplied(self, scale: str, factors: str) -> Value:
        """A scale or an offset of every block: float32 [T, as many as a row has]."""
        graph = self.graph
        halves = graph.cast(self.part(scale), np.float32)
        if not self.weight.super_block:
            return halves
        supers, count = self.weight.columns // self.weight.super_block, self._length(factors)
        numbers = graph.reshape(graph.cast(self.part(factors), np.float32), -1, supers, count // supers)
        return graph.reshape(numbers * graph.unsqueeze(halves, 2), -1, count)

    def part(self, name: str) -> Value:
        """Those rows of a tensor [N / 16, M, 16, …]: the groups that they are in, then their lanes of these. [T, …]"""
        graph = self.graph
        groups = graph.node("Gather", self._tensor(name), graph.node("Div", self.ids, GROUP))
        apart = graph.node("Transpose", groups, perm=[0, 2, 1, 3][: len(self._tensor(name).shape)])
        width = int(np.prod(self._tensor(name).shape[1:])) // GROUP
        at = graph.numbers(self.ids, axis=0) * GROUP + self.ids % GROUP
        return graph.node("Gather", graph.reshape(apart, -1, width), at)

    def _tensor(self, name: str) -> Value:
        return self.graph.initializer(f"{self.weight.name}.{name}")

    def _length(self, name: str) -> int:
        return self._tensor(name).shape[1]

    def _shifted(self, x: Value, places: int | Value, direction: str) -> Value:
        return self.graph.node("BitShift", x, places, direction=direction)
