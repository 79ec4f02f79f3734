"""The decoder as an ONNX graph for ONNX Runtime: one graph for a single token and for a chunk.

Owns what the vocabulary of `graph` and `attention` means in ONNX. In fp32 and fp16 every node is standard opset 24;
quantised weights add `MatMulNBits` and `GatherBlockQuantized` of ONNX Runtime. The state goes in and comes out; a
runner binds both to the same memory and nothing is copied. Integers of positions are int64, phases float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgesink import names
from edgesink.export.attention import SinkCorrected
from edgesink.export.graph import decoder
from edgesink.export.onnx_builder import MICROSOFT, Graph, Value
from edgesink.export.palettize import Palette
from edgesink.export.quantize import BLOCK, Blocks, quantize, stacked
from edgesink.export.weights import Weights
from edgesink.manifest import ONNX_GRAPH
from edgesink.spec import ModelSpec, StreamSpec

# MatMulNBits accuracy_level: activations rounded to int8 by block, the fast path; or as they are, half as fast for a
# token and for 8 bit codes twenty times slower than that
ACTIVATION_INT8, ACTIVATION_FLOAT = 4, 1


def write_onnx(
    folder: Path, model: ModelSpec, stream: StreamSpec, weights: Weights, float_activations: bool = False
) -> None:
    """Write `model.onnx` and `model.onnx.data` into `folder`; `float_activations`: where weights have 4 bits."""
    graph = Graph(folder / f"{ONNX_GRAPH}.data")
    try:
        ids = graph.input(names.IDS, np.int64, [1, "T"])
        position = graph.input(names.POSITION, np.int64, [1])
        sinks = graph.input(names.SINKS, np.int64, [1])
        ops = OnnxOps(graph, model, weights, float_activations)
        attention = SinkCorrected(ops, model, stream, ids, position, sinks)
        flat = graph.constant([-1, model.vocab], np.int64)
        logits = graph.node("Reshape", decoder(model, ops, attention, ids), flat, name=names.LOGITS)
        graph.output(logits, [1, model.vocab])
        graph.output(graph.node("ArgMax", logits, axis=-1, keepdims=1, dtype=np.int64, name=names.NEXT), [1, 1])
        graph.save(folder / ONNX_GRAPH, model.name)
    finally:
        graph.close()


class OnnxOps:
    """The vocabulary as ONNX nodes; satisfies `graph.Ops` and `attention.SinkCorrectedOps`."""

    def __init__(self, graph: Graph, model: ModelSpec, weights: Weights, float_activations: bool = False) -> None:
        self.graph, self.model = graph, model
        self._weights, self._float_activations = weights, float_activations
        self._vocabulary: tuple[Value, tuple[Value, ...], int]
        self._block_means: dict[str, Value] = {}
        self._state_shape: list[int | str] = [1, model.kv_heads, "rows", model.head_dim]
        self._states: dict[str, Value] = {}
        self._indices: Value | None = None
        self._sink_shape: Value | None = None

    # ---- the decoder's vocabulary

    def embed(self, ids: Value) -> Value:
        table, scales, bits = self._vocabulary = self._stored_vocabulary("embedding")
        if not bits:
            return self._float(self.graph.node("Gather", table, ids))
        scale, *zero = scales
        return self.graph.node(
            "GatherBlockQuantized", table, ids, scale, *zero, dtype=np.float32, domain=MICROSOFT,
            bits=bits, block_size=BLOCK, gather_axis=0, quantize_axis=1,
        )  # fmt: skip

    def norm(self, x: Value, weight: str) -> Value:
        scale = self.graph.initializer(weight, np.asarray(self._weight(weight), np.float32))
        return self.graph.node("RMSNormalization", x, scale, axis=-1, epsilon=self.model.norm_eps)

    def project(self, x: Value, *weights: str) -> tuple[Value, ...]:
        if weights == ("head",):
            return (self._head(x),)
        products, widths = self._products(x, weights)
        return products if len(products) == len(widths) else self.graph.split(products[0], widths, axis=2)

    def heads(self, x: Value, *weights: tuple[str, int]) -> tuple[Value, ...]:
        products, _ = self._products(x, [weight for weight, _ in weights])
        counts = [count for _, count in weights]
        if len(products) == 1:  # one transposition for q, k and v
            return self.graph.split(self._cut(products[0], sum(counts)), counts, axis=1)
        return tuple(self._cut(product, count) for product, count in zip(products, counts, strict=True))

    def merge(self, context: Value) -> Value:
        rows = self.graph.node("Transpose", context, perm=[0, 2, 1, 3])
        return self.graph.reshape(rows, 1, -1, self.model.heads * self.model.head_dim)

    def silu(self, x: Value) -> Value:
        return x * self.graph.node("Sigmoid", x)

    def last(self, x: Value) -> Value:
        return self.graph.node("Gather", x, self.graph.constant([-1], np.int64), axis=1, name=names.LAST)

    def update(self, layer: int, slot: Value, k: Value, v: Value) -> tuple[Value, Value]:
        indices = self._write_indices(slot)
        return self._written(names.key(layer), indices, k), self._written(names.value(layer), indices, v)

    # ---- the ring's vocabulary

    def constant(self, array: np.ndarray) -> Value:
        return self.graph.constant(array)

    def arange(self, ids: Value) -> Value:
        return self._numbers(ids, axis=1)

    def where(self, condition: Value, yes: Value | float, no: Value | float) -> Value:
        kind = next((v for v in (yes, no) if isinstance(v, Value)), self.graph.constant(0, np.float32))
        yes, no = self.graph.like(kind, yes), self.graph.like(kind, no)
        return self.graph.node("Where", condition, yes, no, dtype=kind.dtype)

    def minimum(self, a: Value, b: int) -> Value:
        return self.graph.node("Min", a, b)

    def column(self, x: Value) -> Value:
        return self.graph.unsqueeze(x, 1)

    def row_numbers(self) -> Value:
        return self._numbers(self._state(names.key(0)), axis=2)

    def angles(self, position: Value, frequencies: np.ndarray) -> tuple[Value, Value]:
        angle = self.graph.unsqueeze(self.graph.cast(position, np.float64), 1) * frequencies
        return self.graph.node("Cos", angle), self.graph.node("Sin", angle)

    def phase(self, x: Value) -> Value:
        return self.graph.unsqueeze(self._float(x), 0)

    def rotate(self, x: Value, cos: Value, sin: Value) -> Value:
        return self.graph.node("RotaryEmbedding", x, cos, sin)

    def sink_scores(self, q: Value, keys: Value, sinks: Value) -> Value:
        model, graph = self.model, self.graph
        sink_keys = graph.node("Transpose", graph.slice(keys, 0, sinks, axis=2), perm=[0, 1, 3, 2])  # [1, K, D, S]
        grouped = graph.reshape(q, 1, model.kv_heads, -1, model.head_dim)  # [1, K, G T, D]
        if self._sink_shape is None:  # -1 will not do for T: there may be no sinks
            length = graph.node("Shape", q, start=2, end=3, dtype=np.int64)
            self._sink_shape = graph.node("Concat", graph.constant([1, model.heads], np.int64), length, sinks, axis=0)
        return graph.node("Reshape", graph.node("MatMul", grouped, sink_keys), self._sink_shape)  # [1, H, T, S]

    def split_mask(self, mask: Value, sinks: Value, heads: int) -> tuple[Value, Value]:
        ring = self.graph.slice(mask, sinks, np.iinfo(np.int64).max, axis=1)
        every_head = self.graph.constant([1, heads, 1, 1], np.int64)
        return self.graph.slice(mask, 0, sinks, axis=1), self.graph.node("Expand", ring, every_head)

    def join_mask(self, sink_columns: Value, ring_columns: Value) -> Value:
        return self.graph.node("Concat", sink_columns, ring_columns, axis=3)

    def attend(self, q: Value, keys: Value, values: Value, mask: Value) -> Value:
        return self.graph.node("Attention", q, keys, values, mask, scale=1.0)  # any other scale copies every key

    # ---- weights

    def _weight(self, name: str) -> np.ndarray | Blocks:
        weight = self._weights(name)
        assert not isinstance(weight, Palette), "palettes are Core ML's, and refused before anything is written"
        return weight

    def _products(self, x: Value, weights: Sequence[str]) -> tuple[tuple[Value, ...], list[int]]:
        """The products with each weight, or one with all of them stacked where they are held alike; their widths."""
        parts = [self._weight(weight) for weight in weights]
        widths = [part.shape[0] for part in parts]
        if len({_bits(part) for part in parts}) == 1:
            return (self._product(x, "+".join(weights), _stacked(parts)),), widths
        return tuple(self._product(x, weight, part) for weight, part in zip(weights, parts, strict=True)), widths

    def _product(self, x: Value, name: str, weight: np.ndarray | Blocks) -> Value:
        """x @ weight.T."""
        if not isinstance(weight, Blocks):
            return self.graph.node("MatMul", x, self._float(self.graph.initializer(name, weight.T)))
        columns = weight.shape[1]
        if not weight.whole_zeros:
            x, weight, columns = self._with_block_means(x), with_zero_residual(weight), columns + columns // BLOCK
        codes = _packed(weight).reshape(len(weight.codes), -1, BLOCK * weight.bits // 8)
        return self._block_product(
            x, self.graph.initializer(f"{name}.codes", codes), self._scales(name, weight), columns, weight.bits
        )

    def _head(self, x: Value) -> Value:
        """The logits, [1, 1, V]; a tied head is the embedding's bytes under another name."""
        if not self.model.tied:
            self._vocabulary = self._stored_vocabulary("head")
        table, scales, bits = self._vocabulary
        vocab, hidden = self.model.vocab, self.model.hidden
        if not bits:
            flat = self.graph.reshape(x, -1, hidden)
            return self.graph.node("Gemm", flat, self._float(table), transB=1)
        codes = self.graph.alias("head.blocks", table.name, [vocab, hidden // BLOCK, BLOCK * bits // 8])
        return self._block_product(x, codes, scales, hidden, bits)

    def _stored_vocabulary(self, name: str) -> tuple[Value, tuple[Value, ...], int]:
        """The embedding or the head as it lies in the file, [V, hidden]: its values, its scales, its bits."""
        weight = self._weight(name)
        if isinstance(weight, Blocks):
            if not weight.whole_zeros:  # looking a row up has no input to sum, so no column could make up for it
                weight = quantize(weight.dequantized(), 8)
            return self.graph.initializer(f"{name}.codes", _packed(weight)), self._scales(name, weight), weight.bits
        return self.graph.initializer(name, weight), (), 0

    def _block_product(self, x: Value, codes: Value, scales: tuple[Value, ...], columns: int, bits: int) -> Value:
        level = ACTIVATION_FLOAT if self._float_activations and bits == 4 else ACTIVATION_INT8
        return self.graph.node(
            "MatMulNBits", x, codes, *scales, domain=MICROSOFT,
            K=columns, N=codes.shape[0], bits=bits, block_size=BLOCK, accuracy_level=level,
        )  # fmt: skip

    def _scales(self, name: str, weight: Blocks) -> tuple[Value, ...]:
        """Scales, and zero points where they are not the middle that both operators assume."""
        scale = self.graph.initializer(f"{name}.scale", weight.scale)
        if weight.symmetric:
            return (scale,)
        zero = weight.zero.astype(np.uint8)
        return scale, self.graph.initializer(f"{name}.zero", zero if weight.bits == 8 else _nibble_pairs(zero))

    def _with_block_means(self, x: Value) -> Value:
        """x and, behind it, the mean of each of its blocks: [1, T, K + K / 32]."""
        if x.name not in self._block_means:
            means = self.graph.node("AveragePool", x, kernel_shape=[BLOCK], strides=[BLOCK])  # tokens are its channels
            self._block_means[x.name] = self.graph.node("Concat", x, means, axis=2)
        return self._block_means[x.name]

    # ---- the rest

    def _cut(self, x: Value, heads: int) -> Value:
        """[1, T, heads D] -> [1, heads, T, D]."""
        rows = self.graph.reshape(x, 1, -1, heads, self.model.head_dim)
        return self.graph.node("Transpose", rows, perm=[0, 2, 1, 3])

    def _float(self, x: Value) -> Value:
        return self.graph.cast(x, np.float32)

    def _numbers(self, x: Value, axis: int) -> Value:
        """0, 1 … as many as x is long along `axis`: int64."""
        length = self.graph.node("Squeeze", self.graph.node("Shape", x, start=axis, end=axis + 1, dtype=np.int64))
        return self.graph.node("Range", self.graph.constant(0, np.int64), length, self.graph.constant(1, np.int64))

    def _written(self, name: str, indices: Value, rows: Value) -> Value:
        """The state buffer `name` with `rows` [1, K, T, D] written: read in, written, handed out."""
        out = self.graph.node("ScatterND", self._state(name), indices, rows, name=names.updated(name))
        self.graph.output(out, self._state_shape)
        return out

    def _state(self, name: str) -> Value:
        """The state buffer `name` as it comes in, declared once."""
        if name not in self._states:
            self._states[name] = self.graph.input(name, np.float32, self._state_shape)
        return self._states[name]

    def _write_indices(self, slot: Value) -> Value:
        """Where the rows go, for every key/value head: int64 [1, K, T, 3] of (0, head, slot)."""
        if self._indices is None:
            graph, heads = self.graph, self.model.kv_heads
            length = graph.node("Shape", slot, dtype=np.int64)  # [1]
            shape = graph.node(
                "Concat", graph.constant([1, heads], np.int64), length, graph.constant([1], np.int64), axis=0
            )
            head = graph.constant(np.arange(heads).reshape(1, heads, 1, 1))
            zero = graph.constant(np.zeros((1, 1, 1, 1), np.int64))
            parts = [zero, head, graph.reshape(slot, 1, 1, -1, 1)]
            self._indices = graph.node("Concat", *(graph.node("Expand", part, shape) for part in parts), axis=3)
        return self._indices


def with_zero_residual(weight: Blocks) -> Blocks:
    """The same matrix with whole zero points, and K / 32 more columns that make up for the rounding.

    ONNX Runtime is fast with whole zero points only, and GGUF's Q4_1 has fractional ones. The rounding of a block's
    zero point is off by the same e = scale * (whole - zero) for all its 32 inputs, so it is made up for by one column
    holding 32 e that multiplies the mean of those inputs. The columns are held in 4 bits like the rest.
    """
    rows, columns = weight.shape
    whole = np.clip(np.rint(weight.zero), 0, 15)
    error = BLOCK * weight.scale * (whole - weight.zero)  # [N, K / 32]
    padded = np.zeros((rows, -(-columns // BLOCK // BLOCK) * BLOCK), np.float32)
    padded[:, : error.shape[1]] = error
    blocks = padded.reshape(rows, -1, BLOCK)
    scale = np.maximum(np.abs(blocks).max(-1), 1e-12) / 7
    codes = np.clip(np.rint(blocks / scale[..., None]) + 8, 0, 15).astype(np.uint8).reshape(rows, -1)
    return Blocks(
        np.concatenate([weight.codes, codes], axis=1),
        np.concatenate([weight.scale, scale], axis=1).astype(np.float32),
        np.concatenate([whole, np.full_like(scale, 8)], axis=1),
        weight.bits,
    )


def _stacked(parts: Sequence[np.ndarray | Blocks]) -> np.ndarray | Blocks:
    blocks = [part for part in parts if isinstance(part, Blocks)]
    return stacked(blocks) if blocks else np.concatenate([part for part in parts if not isinstance(part, Blocks)])


def _bits(weight: np.ndarray | Blocks) -> int:
    """0 for floats."""
    return weight.bits if isinstance(weight, Blocks) else 0


def _packed(weight: Blocks) -> np.ndarray:
    """Codes as bytes, [N, K * bits / 8]."""
    return weight.codes if weight.bits == 8 else _nibble_pairs(weight.codes)


def _nibble_pairs(codes: np.ndarray) -> np.ndarray:
    """Two 4-bit codes a byte, the first in the low half: [N, ceil(K / 2)]."""
    if codes.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    return codes[:, 0::2] | (codes[:, 1::2] << 4)
