"""The decoder as an ONNX graph for ONNX Runtime: one graph for a single token and for a chunk.

Owns what the vocabulary of `graph` and `attention` means in ONNX. In fp32 and fp16 every node is standard opset 24;
quantised weights add `MatMulNBits` and `GatherBlockQuantized` of ONNX Runtime. The state goes in and comes out; a
runner binds both to the same memory and nothing is copied. Integers of positions are int64, phases float64.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgesink import names
from edgesink.export.attention import SinkCorrected
from edgesink.export.graph import decoder
from edgesink.export.quantize import BLOCK
from edgesink.export.to_onnx.builder import MICROSOFT, Graph, Value
from edgesink.export.to_onnx.weights import OnnxWeights, Stored
from edgesink.spec import ModelSpec, StreamSpec

# MatMulNBits accuracy_level: activations rounded to int8 by block, the fast path; or as they are, half as fast for a
# token and for 8 bit codes twenty times slower than that
ACTIVATION_INT8, ACTIVATION_FLOAT = 4, 1


def write_onnx(
    path: Path, model: ModelSpec, stream: StreamSpec, weights: OnnxWeights, float_activations: bool = False
) -> None:
    """Write the graph file `path` beside the data file of `weights`; `float_activations`: where weights have 4 bits."""
    graph = Graph(weights.file)
    ids, position, sinks = inputs(graph)
    ops = OnnxOps(graph, model, weights, float_activations)
    attention = SinkCorrected(ops, model, stream, ids, position, sinks)
    outputs(graph, model, decoder(model, ops, attention, ids))
    graph.save(path, model.name)


def inputs(graph: Graph) -> tuple[Value, Value, Value]:
    """The ids, their position and the stream's sinks, as every graph takes them."""
    ids = graph.input(names.IDS, np.int64, [1, "T"])
    return ids, graph.input(names.POSITION, np.int64, [1]), graph.input(names.SINKS, np.int64, [1])


def outputs(graph: Graph, model: ModelSpec, logits: Value) -> None:
    """The logits [1, 1, V], and which is largest, as every graph gives them."""
    flat = graph.node("Reshape", logits, graph.constant([-1, model.vocab], np.int64), name=names.LOGITS)
    graph.output(flat, [1, model.vocab])
    graph.output(graph.node("ArgMax", flat, axis=-1, keepdims=1, dtype=np.int64, name=names.NEXT), [1, 1])


class OnnxOps:
    """The vocabulary as ONNX nodes; satisfies `graph.Ops` and `attention.SinkCorrectedOps`."""

    def __init__(self, graph: Graph, model: ModelSpec, weights: OnnxWeights, float_activations: bool = False) -> None:
        self.graph, self.model, self.weights = graph, model, weights
        self._float_activations = float_activations
        self._block_means: dict[str, Value] = {}
        self._state_shape: list[int | str] = [1, model.kv_heads, "rows", model.head_dim]
        self._states: dict[str, Value] = {}
        self._indices: Value | None = None
        self._sink_shape: Value | None = None

    # ---- the decoder's vocabulary

    def embed(self, ids: Value) -> Value:
        table = self.weights.vocabulary("embedding")
        if not table.bits:
            return self._float(self.graph.node("Gather", self.graph.initializer(table.name), ids))
        codes, (scale, *zero) = self.graph.initializer(f"{table.name}.rows"), self._scales(table)
        return self.graph.node(
            "GatherBlockQuantized", codes, ids, scale, *zero, dtype=np.float32, domain=MICROSOFT,
            bits=table.bits, block_size=BLOCK, gather_axis=0, quantize_axis=1,
        )  # fmt: skip

    def norm(self, x: Value, weight: str) -> Value:
        scale = self.graph.initializer(self.weights.vector(weight))
        return self.graph.node("RMSNormalization", x, scale, axis=-1, epsilon=self.model.norm_eps)

    def heads(self, x: Value, *weights: tuple[str, int]) -> tuple[Value, ...]:
        products = self._products(x, *(weight for weight, _ in weights))
        counts = [count for _, count in weights]
        if len(products) == 1:  # one transposition for q, k and v
            return self.graph.split(self._cut(products[0], sum(counts)), counts, axis=1)
        return tuple(self._cut(product, count) for product, count in zip(products, counts, strict=True))

    def merge(self, context: Value) -> Value:
        rows = self.graph.node("Transpose", context, perm=[0, 2, 1, 3])
        return self.graph.reshape(rows, 1, -1, self.model.heads * self.model.head_dim)

    def add_product(self, x: Value, y: Value, weight: str) -> Value:
        return x + self._products(y, weight)[0]

    def gated(self, x: Value, gate: str, up: str) -> Value:
        products = self._products(x, gate, up)
        if len(products) == 1:
            products = self.graph.split(products[0], [self.model.intermediate] * 2, axis=2)
        return products[0] * self.graph.node("Sigmoid", products[0]) * products[1]

    def last(self, x: Value) -> Value:
        return self.graph.node("Gather", x, self.graph.constant([-1], np.int64), axis=1, name=names.LAST)

    def head(self, x: Value) -> Value:
        """A tied head is the embedding's bytes under another name."""
        table = self.weights.vocabulary("embedding" if self.model.tied else "head")
        if table.bits:
            return self._product(x, table)
        flat = self.graph.reshape(x, -1, self.model.hidden)
        return self.graph.node("Gemm", flat, self._float(self.graph.initializer(table.name)), transB=1)

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

    def _products(self, x: Value, *weights: str) -> tuple[Value, ...]:
        """x @ w.T for each weight, or one product with all of them stacked where they are held alike."""
        return tuple(self._product(x, stored) for stored in self.weights.matrices(*weights))

    def _product(self, x: Value, weight: Stored) -> Value:
        if not weight.bits:
            return self.graph.node("MatMul", x, self._float(self.graph.initializer(weight.name)))
        columns = weight.columns
        if weight.has_residual:
            x, columns = self._with_block_means(x), columns + columns // BLOCK
        level = ACTIVATION_FLOAT if self._float_activations and weight.bits == 4 else ACTIVATION_INT8
        return self.graph.node(
            "MatMulNBits", x, self.graph.initializer(f"{weight.name}.codes"), *self._scales(weight), domain=MICROSOFT,
            K=columns, N=weight.rows, bits=weight.bits, block_size=BLOCK, accuracy_level=level,
        )  # fmt: skip

    def _scales(self, weight: Stored) -> tuple[Value, ...]:
        """Scales, and zero points where they are not the middle that both operators assume."""
        scale = self._float(self.graph.initializer(f"{weight.name}.scale"))
        return (scale,) if weight.symmetric else (scale, self.graph.initializer(f"{weight.name}.zero"))

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
