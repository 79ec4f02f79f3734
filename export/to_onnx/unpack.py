"""Products of ONNX Runtime's own operators with blocks that lie as the kernels read them (`layout`).

Owns the way from one layout to the other. Every step of it is on constants: ONNX Runtime takes them when it loads the
model, and the file holds each weight once. It keeps what each step makes until all are taken, so steps are few:
nibbles stay where they are, and the inputs are brought into their order instead (`in_order`). Codes of 5 and 6 bits
are two products of 4: of their low bits, and of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgesink.export.blocks import BLOCK, IQ4_VALUES
from edgesink.export.to_onnx.builder import Graph, Value
from edgesink.export.to_onnx.layout import GROUP, WORD
from edgesink.export.to_onnx.weights import Stored

HALF = BLOCK // 2
SIGN = 128  # what `MatMulNBits` takes off codes of 8 bits
LOW = 4 * WORD  # bytes of a block with the low four bits of its codes


@dataclass(frozen=True)
class Factor:
    """A matrix as `MatMulNBits` takes it: w = scale * (code - zero); every value is a constant."""

    codes: Value  # uint8 [N, K / block, bytes of a block]
    scale: Value  # float32 [N, K / block]
    bits: int  # 4 or 8
    zero: int | None = None  # None: the middle of `bits`


@dataclass(frozen=True)
class Unpacked:
    """x @ w.T = the sum of the factors' products with x `in_order`, and of `rest` with the sums of its blocks."""

    factors: list[Factor]
    run: int  # for `in_order`; 1: as it is
    rest: Value | None  # float32 [K / 32, N]; None: 0


def unpacked(graph: Graph, weight: Stored) -> Unpacked:
    """The matrix, unpacked."""
    held = _Held(graph, weight)
    scale = held.scales()
    if weight.bits == 8:
        factors, run = [Factor(held.words(0, 8 * WORD), scale, 8)], 1
    elif weight.is_table:
        factors, run = [Factor(held.looked_up(), scale, 8)], HALF
    elif weight.bits == 4:
        factors, run = [Factor(held.words(0, LOW), scale, 4)], HALF
    elif weight.bits == 5:
        factors, run = [Factor(held.words(0, LOW), scale, 4, 0), Factor(held.fifth_bits(), scale * 16.0, 4, 1)], HALF
    else:
        factors = [Factor(held.halves_apart(), scale, 4, 0), Factor(held.upper_bits(), scale * 16.0, 4, 2)]
        run = HALF // 2
    return Unpacked(factors, run, held.rest(scale) if weight.has_offset else None)


def floats(graph: Graph, weight: Stored) -> Value:
    """A matrix of 16-bit floats as `MatMul` takes it: float32 [K, N]."""
    held = graph.initializer(f"{weight.name}.floats")
    filled = held.shape[0] * GROUP
    columns = graph.node("Transpose", held, perm=[1, 3, 0, 2])  # [K / 2, 2, N / 16, 16]
    matrix = graph.reshape(graph.cast(columns, np.float32), weight.columns, filled)
    return matrix if weight.rows == filled else graph.slice(matrix, 0, weight.rows, axis=1)


def in_order(graph: Graph, x: Value, run: int, columns: int) -> Value:
    """x [1, T, K] as nibbles lie: of every two runs the first of each, then the second of each, and so on."""
    runs = graph.reshape(x, 1, -1, columns // (2 * run), 2, run)
    return graph.reshape(graph.node("Transpose", runs, perm=[0, 1, 2, 4, 3]), 1, -1, columns)


def block_sums(graph: Graph, x: Value, columns: int) -> Value:
    """x [1, T, K] -> [1, T, K / 32]."""
    blocks = graph.reshape(x, 1, -1, columns // BLOCK, BLOCK)
    return graph.node("ReduceSum", blocks, graph.constant([3], np.int64), keepdims=0)


@dataclass(frozen=True)
class _Held:
    """The tensors of a matrix in the file, and what becomes of them."""

    graph: Graph
    weight: Stored

    def words(self, first: int, end: int) -> Value:
        """Those bytes of every block: uint8 [N, K / 32, end - first]."""
        weight = self.weight
        count, every = weight.columns // BLOCK, weight.bits * WORD
        words = self.graph.initializer(f"{weight.name}.codes")
        if end - first < every:  # [N / 16, K / 32 * bits, 16, 4] is cut by words
            groups = words.shape[0]
            blocks = self.graph.reshape(words, groups, count, weight.bits, GROUP, WORD)
            words = self.graph.slice(blocks, first // WORD, end // WORD, axis=2)
            words = self.graph.reshape(words, groups, -1, GROUP, WORD)
        return self._rows_apart(words, [0, 2, 1, 3], [count, end - first])

    def looked_up(self) -> Value:
        """What codes of a table stand for, as codes of 8 bits: uint8 [N, K / 32, 32]."""
        values = (IQ4_VALUES.astype(np.int16) + SIGN).astype(np.uint8)
        both = np.stack([np.tile(values, 16), np.repeat(values, 16)], axis=1)  # of each byte: [256, 2]
        bytes_ = self.graph.cast(self.words(0, LOW), np.int32)
        found = self.graph.node("Gather", self.graph.constant(both), bytes_, dtype=np.uint8)
        return self.graph.reshape(found, self.weight.rows, -1, BLOCK)

    def fifth_bits(self) -> Value:
        """Nibbles of 0 or 1, where the low four bits are: uint8 [N, K / 32, 16]."""
        return self._spread(np.arange(4, dtype=np.uint8), 0x11, [1, WORD])

    def upper_bits(self) -> Value:
        """Nibbles of 0 to 3, each half of a block apart: uint8 [N, K / 16, 8]."""
        return self._spread(np.array([0, 2], np.uint8), 0x33, [2, 1, WORD])

    def halves_apart(self) -> Value:
        """The low four bits, those of each half of a block in bytes of their own: uint8 [N, K / 16, 8]."""
        graph, low = self.graph, self.words(0, LOW)
        first, second = (graph.slice(low, *bounds, axis=2) for bounds in ((0, LOW // 2), (LOW // 2, LOW)))
        lows = graph.node("BitwiseOr", graph.node("BitwiseAnd", first, 15), self._shifted(second, 4, "LEFT"))
        highs = graph.node("BitwiseOr", self._shifted(first, 4, "RIGHT"), graph.node("BitwiseAnd", second, 240))
        return graph.reshape(graph.node("Concat", lows, highs, axis=2), self.weight.rows, -1, HALF // 2)

    def scales(self) -> Value:
        """float32 [N, K / block]."""
        return self._multiplied("scale", "factors")

    def rest(self, scale: Value) -> Value:
        """What codes that count from 0 are worth beyond those that count from the middle: float32 [K / 32, N]."""
        offset = self._multiplied("offset", "offset_factors")
        return self.graph.node("Transpose", offset + scale * float(1 << (self.weight.bits - 1)), perm=[1, 0])

    def _spread(self, shifts: np.ndarray, mask: int, shape: list[int]) -> Value:
        """The words behind the low four bits, shifted by each of the shifts and masked: [N, K / block, block / 2]."""
        words = self.words(LOW, self.weight.bits * WORD)
        words = self.graph.reshape(words, self.weight.rows, -1, *shape)
        shifted = self._shifted(words, self.graph.constant(shifts[:, None]), "RIGHT")
        return self.graph.reshape(
            self.graph.node("BitwiseAnd", shifted, mask), self.weight.rows, -1, self.weight.block // 2
        )

    def _multiplied(self, scale: str, factors: str) -> Value:
        """float32 [N, K / 32 or 16]."""
        halves = self.graph.cast(self._numbers(scale), np.float32)
        if not self.weight.super_block:
            return halves
        supers = self.weight.columns // self.weight.super_block
        numbers = self.graph.cast(self._numbers(factors), np.float32)
        by_block = self.graph.reshape(numbers, self.weight.rows, supers, -1) * self.graph.unsqueeze(halves, 2)
        return self.graph.reshape(by_block, self.weight.rows, -1)

    def _numbers(self, name: str) -> Value:
        """[N, as many as a row has]."""
        return self._rows_apart(self.graph.initializer(f"{self.weight.name}.{name}"), [0, 2, 1], [-1])

    def _rows_apart(self, tensor: Value, perm: list[int], shape: list[int]) -> Value:
        """Sixteen rows side by side, brought apart: [N, *shape]."""
        graph, rows = self.graph, self.weight.rows
        filled = -(-rows // GROUP) * GROUP
        apart = graph.reshape(graph.node("Transpose", tensor, perm=perm), filled, *shape)
        return apart if rows == filled else graph.slice(apart, 0, rows, axis=0)

    def _shifted(self, x: Value, places: int | Value, direction: str) -> Value:
        return self.graph.node("BitShift", x, places, direction=direction)
