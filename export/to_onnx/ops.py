"""The decoder as an ONNX graph for ONNX Runtime: one graph for a single token and for a chunk.

Owns what the vocabulary of `graph` and `attention` means in ONNX. In fp32 and fp16 every node is standard opset 24;
quantised weights add `MatMulNBits` of ONNX Runtime, over constants that `unpack` makes. Integers of positions are
int64, phases float64. Knows no model but by the numbers that it is told, and of the state (`buffers`) nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgesink import names
from edgesink.export.attention import MASKED, by_view, stream_attention
from edgesink.export.graph import Norm, Product, Projection, decoder, unknown_activation
from edgesink.export.rows import AttentionSpec, Heads
from edgesink.export.to_onnx.buffers import OnnxBuffers
from edgesink.export.to_onnx.builder import MICROSOFT, Graph, Value
from edgesink.export.to_onnx.layout import GROUP
from edgesink.export.to_onnx.lookup import looked_up
from edgesink.export.to_onnx.unpack import Factor, block_sums, floats, in_order, unpacked
from edgesink.export.to_onnx.weights import OnnxWeights, Stored, by_matrix
from edgesink.spec import Activation, ModelSpec, StreamSpec

# MatMulNBits accuracy_level: activations rounded to int8 by block, the fast path; or as they are, half as fast for a
# token and for 8 bit codes twenty times slower than that
ACTIVATION_INT8, ACTIVATION_FLOAT = 4, 1


def write_onnx(
    path: Path, model: ModelSpec, stream: StreamSpec, weights: OnnxWeights, float_activations: bool = False
) -> None:
    """Write the graph file `path` beside the data file of `weights`; `float_activations`: where weights have 4 bits."""
    graph = Graph(weights.file)
    ids, position, sinks = inputs(graph)
    oldest = oldest_input(graph)
    ops = OnnxOps(graph, weights, float_activations)
    rings = ring_buffers(graph, model, stream)
    views = []
    for view in model.views:
        buffers = rings[model.rings(stream).index(model.ring(view, stream))]
        spec = AttentionSpec.of(model, stream, view)
        views.append(stream_attention(ops, buffers, spec, ids, position, sinks, oldest))
    outputs(graph, decoder(model, ops, by_view(model, views), ids), model.vocab)
    graph.save(path, model.name)


def ring_buffers(graph: Graph, model: ModelSpec, stream: StreamSpec) -> list[OnnxBuffers]:
    """Those of each ring of the model; every ring has a number of rows of its own, which the runner chooses."""
    heads, buffers = Heads(model.heads, model.kv_heads, model.head_dim), []
    for ring in range(len(model.rings(stream))):
        layers = [layer for layer in range(model.layers) if model.ring_of(layer, stream) == ring]
        buffers.append(OnnxBuffers(graph, layers, heads, rows=names.rows(ring)))
    return buffers


def inputs(graph: Graph) -> tuple[Value, Value, Value]:
    """The ids, their position and the stream's sinks, as every graph takes them."""
    ids = graph.input(names.IDS, np.int64, [1, "T"])
    return ids, graph.input(names.POSITION, np.int64, [1]), graph.input(names.SINKS, np.int64, [1])


def oldest_input(graph: Graph) -> Value:
    """Where the windows of the new tokens begin at the earliest; left out, nothing is hidden."""
    return graph.input(names.OLDEST, np.int64, [names.OLDEST], default=np.zeros(1, np.int64))


def outputs(graph: Graph, logits: Value, vocab: int) -> None:
    """The logits [1, rows, V], and which is largest in each row, as every graph gives them."""
    flat = graph.node("Reshape", logits, graph.constant([-1, vocab], np.int64), name=names.LOGITS)
    graph.output(flat, [names.LOGIT_ROWS, vocab])
    largest = graph.node("ArgMax", flat, axis=-1, keepdims=1, dtype=np.int64, name=names.NEXT)
    graph.output(largest, [names.LOGIT_ROWS, 1])


def activated(graph: Graph, x: Value, activation: Activation) -> Value:
    """The activation of every value."""
    if activation == "silu":
        return x * graph.node("Sigmoid", x)
    if activation in ("gelu", "gelu_tanh"):
        return graph.node("Gelu", x, approximate="tanh" if activation == "gelu_tanh" else "none")
    raise unknown_activation(activation)


def normalized(graph: Graph, x: Value, norm: Norm, vectors: Sequence[Value]) -> Value:
    """x through a norm whose weight, and bias if it has one, are `vectors`."""
    kind = {"rms": "RMSNormalization", "layer": "LayerNormalization"}[norm.kind]
    return graph.node(kind, x, *vectors, axis=-1, epsilon=norm.eps)


def clipped_and_normed(
    graph: Graph,
    product: Value,
    projections: Sequence[Projection],
    dim: int,
    normed: Callable[[Value, Norm], Value],
) -> list[Value]:
    """The one product of some projections, [1, T, heads dim], kept within their clip: as one, or where any of them has
    a norm of all heads together, each by itself."""
    if (clip := projections[0].clip) is not None:
        product = graph.node("Clip", product, -clip, clip)
    if not any(projection.norm for projection in projections):
        return [product]
    widths = [projection.heads * dim for projection in projections]
    products = graph.split(product, widths, axis=2) if len(widths) > 1 else [product]
    return [normed(y, p.norm) if p.norm else y for y, p in zip(products, projections, strict=True)]


def gated(graph: Graph, stored: Sequence[Stored], products: Sequence[Value], activation: Activation) -> Value:
    """The products with `OnnxWeights.pair`, [1, T, width] each or both as one, to the gate of the first times the
    second."""
    width = sum(matrix.rows for matrix in stored) // 2
    if stored[0].in_turn:
        products = graph.split(graph.reshape(products[0], 1, -1, width // GROUP, 2 * GROUP), [GROUP] * 2, axis=3)
    elif len(products) == 1:
        products = graph.split(products[0], [width] * 2, axis=2)
    multiplied = activated(graph, products[0], activation) * products[1]
    return graph.reshape(multiplied, 1, -1, width) if stored[0].in_turn else multiplied


class StepOps:
    """What every graph says of the tokens of a step: their numbers, their phases, which of them are the last."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.logit_rows = graph.input(names.LOGIT_ROWS, np.int64, [1], default=np.ones(1, np.int64))

    def constant(self, array: np.ndarray) -> Value:
        return self.graph.constant(array)

    def arange(self, ids: Value) -> Value:
        return self.graph.numbers(ids, axis=1)

    def minimum(self, a: Value, b: int) -> Value:
        return self.graph.node("Min", a, b)

    def angles(self, position: Value, frequencies: np.ndarray) -> tuple[Value, Value]:
        angle = self.graph.unsqueeze(self.graph.cast(position, np.float64), 1) * frequencies
        return self.graph.node("Cos", angle), self.graph.node("Sin", angle)

    def phase(self, x: Value) -> Value:
        return self.graph.unsqueeze(self.graph.cast(x, np.float32), 0)

    def capped(self, x: Value, cap: float) -> Value:
        return self.graph.node("Tanh", x * (1 / cap)) * cap

    def last(self, x: Value) -> Value:
        """The last tokens, as many as a run asks for logits of."""
        graph = self.graph
        first, end = graph.node("Neg", self.logit_rows), graph.constant([np.iinfo(np.int64).max], np.int64)
        return graph.node("Slice", x, first, end, graph.constant([1], np.int64), name=names.LAST)


class OnnxOps(StepOps):
    """The vocabulary as ONNX nodes; satisfies `attention.StreamOps`."""

    masked = MASKED

    def __init__(self, graph: Graph, weights: OnnxWeights, float_activations: bool = False) -> None:
        super().__init__(graph)
        self._weights = weights
        self._float_activations = float_activations
        self._prepared_inputs: dict[tuple[object, ...], Value] = {}
        self._sink_shapes: dict[tuple[int, str], Value] = {}  # by the heads and the name of the sinks' number

    # ---- the decoder's vocabulary

    def embed(self, ids: Value, weight: str, scale: float) -> Value:
        rows = self._rows(ids, weight)
        return rows if scale == 1 else rows * scale

    def norm(self, x: Value, norm: Norm) -> Value:
        vectors = [self._vector(name) for name in (norm.weight, norm.bias) if name is not None]
        return normalized(self.graph, x, norm, vectors)

    def heads(self, x: Value, *projections: Projection) -> tuple[Value, ...]:
        stored = self._weights.matrices(*(projection.weight for projection in projections))
        dim = sum(matrix.rows for matrix in stored) // sum(projection.heads for projection in projections)
        heads: list[Value] = []
        for matrix, group in by_matrix(stored, projections):
            product = self._sum(self._product(x, matrix), [projection.bias for projection in group])
            products = clipped_and_normed(self.graph, product, group, dim, self.norm)
            shares = [group] if len(products) == 1 else [[projection] for projection in group]
            for one, share in zip(products, shares, strict=True):
                heads += self._cut_heads(one, share, dim)
        return tuple(heads)

    def merge(self, context: Value, width: int) -> Value:
        rows = self.graph.node("Transpose", context, perm=[0, 2, 1, 3])
        return self.graph.reshape(rows, 1, -1, width)

    def residual(self, x: Value, y: Value, product: Product, after: Norm | None) -> Value:
        added = self._with_bias(y, product)
        return x + (self.norm(added, after) if after else added)

    def gated(self, x: Value, gate: str, up: str, activation: Activation) -> Value:
        stored = self._weights.pair(gate, up)
        return gated(self.graph, stored, [self._product(x, matrix) for matrix in stored], activation)

    def plain(self, x: Value, up: Product, activation: Activation) -> Value:
        return activated(self.graph, self._with_bias(x, up), activation)

    def head(self, x: Value, weight: str) -> Value:
        """A tied head is the embedding's bytes under another name."""
        table = self._weights.vocabulary(weight)
        if table.bits:
            return self._product(x, table)
        flat = self.graph.reshape(x, -1, table.columns)
        return self.graph.node("Gemm", flat, self._float(self.graph.initializer(table.name)), transB=1)

    # ---- the ring's vocabulary

    def where(self, condition: Value, yes: Value | float, no: Value | float) -> Value:
        kind = next((v for v in (yes, no) if isinstance(v, Value)), self.graph.constant(0, np.float32))
        yes, no = self.graph.like(kind, yes), self.graph.like(kind, no)
        return self.graph.node("Where", condition, yes, no, dtype=kind.dtype)

    def column(self, x: Value) -> Value:
        return self.graph.unsqueeze(x, 1)

    def append_zero(self, x: Value, axis: int) -> Value:
        """The whole of `x` is copied: a model that needs it has no faster way without a kernel of its own."""
        graph = self.graph
        zero = graph.like(x, 0.0)
        return graph.node("Pad", x, graph.constant([0, 1], np.int64), zero, graph.constant([axis], np.int64))

    def rotate(self, x: Value, cos: Value, sin: Value) -> Value:
        return self.graph.node("RotaryEmbedding", x, cos, sin)

    def sink_scores(self, q: Value, keys: Value, sinks: Value, heads: Heads) -> Value:
        graph = self.graph
        sink_keys = graph.node("Transpose", graph.slice(keys, 0, sinks, axis=2), perm=[0, 1, 3, 2])  # [1, K, D, S]
        grouped = graph.reshape(q, 1, heads.keys, -1, heads.dim)  # [1, K, G T, D]
        shape = self._sink_shape(q, sinks, heads.queries)
        return graph.node("Reshape", graph.node("MatMul", grouped, sink_keys), shape)  # [1, H, T, S]

    def split_mask(self, mask: Value, sinks: Value, heads: int) -> tuple[Value, Value]:
        ring = self.graph.slice(mask, sinks, np.iinfo(np.int64).max, axis=1)
        every_head = self.graph.constant([1, heads, 1, 1], np.int64)
        return self.graph.slice(mask, 0, sinks, axis=1), self.graph.node("Expand", ring, every_head)

    def join_mask(self, sink_columns: Value, ring_columns: Value) -> Value:
        return self.graph.node("Concat", sink_columns, ring_columns, axis=3)

    def sloped(self, distance: Value, slopes: Sequence[float]) -> Value:
        every_head = -np.array(slopes, np.float32)[:, None, None]
        return self.graph.unsqueeze(self.graph.cast(distance, np.float32), 0) * every_head

    def attend(self, q: Value, keys: Value, values: Value, mask: Value, cap: float | None) -> Value:
        """The operator caps scores before it adds the mask; any scale but 1 would copy every key."""
        more: dict[str, Any] = {} if cap is None else {"softcap": cap}
        return self.graph.node("Attention", q, keys, values, mask, scale=1.0, **more)

    # ---- weights

    def _rows(self, ids: Value, weight: str) -> Value:
        table = self._weights.vocabulary(weight)
        if not table.bits:
            return self._float(self.graph.node("Gather", self.graph.initializer(table.name), ids))
        return looked_up(self.graph, ids, table)

    def _cut_heads(self, product: Value, projections: Sequence[Projection], dim: int) -> Sequence[Value]:
        """The heads of each projection out of the product of all, by one transposition."""
        counts = [projection.heads for projection in projections]
        cut = self._cut(product, sum(counts), sum(counts) * dim)
        return self.graph.split(cut, counts, axis=1) if len(counts) > 1 else [cut]

    def _sum(self, product: Value, biases: Sequence[str | None]) -> Value:
        """The product of some projections with their biases; it has all of theirs or none."""
        present = [bias for bias in biases if bias is not None]
        if not present:
            return product
        assert len(present) == len(biases), "a product of some projections with a bias and some without"
        return product + self._vector(*present)

    def _with_bias(self, x: Value, product: Product) -> Value:
        """x @ w.T + bias."""
        return self._sum(self._product(x, self._weights.matrices(product.weight)[0]), [product.bias])

    def _vector(self, *names: str) -> Value:
        return self.graph.initializer(self._weights.vector(*names))

    def _product(self, x: Value, weight: Stored) -> Value:
        """x @ w.T."""
        if not weight.bits:
            return self.graph.node("MatMul", x, self._float(self.graph.initializer(weight.name)))
        if weight.is_halves:
            return self.graph.node("MatMul", x, floats(self.graph, weight))
        matrix = unpacked(self.graph, weight)
        terms = [self._factor(x, factor, matrix.run, weight) for factor in matrix.factors]
        if matrix.rest is not None:
            terms.append(self.graph.node("MatMul", self._prepared(x, block_sums, weight.columns), matrix.rest))
        return sum(terms[1:], terms[0])

    def _factor(self, x: Value, factor: Factor, run: int, weight: Stored) -> Value:
        graph, zeros = self.graph, []
        if factor.zero is not None:
            packed = graph.constant(17 * factor.zero, np.uint8)  # two a byte
            shape = graph.constant([weight.rows, -(-weight.columns // weight.block // 2)], np.int64)
            zeros = [graph.node("Expand", packed, shape)]
        x = x if run == 1 else self._prepared(x, in_order, run, weight.columns)
        level = ACTIVATION_FLOAT if self._float_activations and factor.bits == 4 else ACTIVATION_INT8
        return graph.node(
            "MatMulNBits", x, factor.codes, factor.scale, *zeros, domain=MICROSOFT, K=weight.columns, N=weight.rows,
            bits=factor.bits, block_size=weight.block, accuracy_level=level,
        )  # fmt: skip

    def _prepared(self, x: Value, how: Callable[..., Value], *sizes: int) -> Value:
        """x as products take it, once for all that do."""
        key = (x.name, how, *sizes)
        if key not in self._prepared_inputs:
            self._prepared_inputs[key] = how(self.graph, x, *sizes)
        return self._prepared_inputs[key]

    # ---- shapes

    def _cut(self, x: Value, heads: int, width: int) -> Value:
        """[1, T, width] -> [1, heads, T, D], width = heads D."""
        rows = self.graph.reshape(x, 1, -1, heads, width // heads)
        return self.graph.node("Transpose", rows, perm=[0, 2, 1, 3])

    def _sink_shape(self, q: Value, sinks: Value, heads: int) -> Value:
        """[1, H, T, S], where every q of a graph has the T tokens of the step."""
        key = heads, sinks.name
        if key not in self._sink_shapes:  # -1 will not do for T: there may be no sinks
            length = self.graph.node("Shape", q, start=2, end=3, dtype=np.int64)
            one = self.graph.constant([1, heads], np.int64)
            self._sink_shapes[key] = self.graph.node("Concat", one, length, sinks, axis=0)
        return self._sink_shapes[key]

    def _float(self, x: Value) -> Value:
        return self.graph.cast(x, np.float32)
