"""The decoder as an ONNX graph over the operators of `kernels/`, beside the graph of standard ones.

Owns what the vocabulary means there: a layer is four products that take their norm, their gate and the residual stream
along, and one attention that writes the ring and knows which rows a token sees. Weights are the other graph's, from the
same file, which lie there as the operators read them (`layout`); keys and values are float16, but for the keys of some
layers (`export.states`). A runner takes this graph where its processor has the kernels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgesink import names
from edgesink.export.attention import by_view
from edgesink.export.graph import Norm, Product, Projection, decoder
from edgesink.export.rows import NO_SINKS, AttentionSpec, Heads
from edgesink.export.to_onnx.builder import Graph, Value
from edgesink.export.to_onnx.ops import (
    StepOps,
    activated,
    clipped_and_normed,
    gated,
    inputs,
    normalized,
    oldest_input,
    outputs,
)
from edgesink.export.to_onnx.weights import OnnxWeights, Stored, by_matrix
from edgesink.spec import Activation, ModelSpec, StreamSpec
from edgesink.targets import Precision, lacks

EDGESINK = "edgesink"  # the domain of the operators in kernels/onnxruntime.c
UNREAD_EPSILON = 1e-5  # of a product that takes no norm along: the operator asks for the attribute
PARTS = ("codes", "scale", "offset", "factors", "offset_factors")  # of a matrix, in the operators' order
GATES: dict[Activation, int] = {"silu": 3, "gelu_tanh": 4}  # as the operator counts those of rows in turn; 0: no gate


def runs_on_kernels(model: ModelSpec, precision: Precision) -> bool:
    """Whether the operators can hold this model; `lacks` says why not."""
    return not lacks("onnx", precision, model.as_data())


def write_kernels_graph(
    path: Path, model: ModelSpec, stream: StreamSpec, weights: OnnxWeights, float32: Collection[str] = ()
) -> None:
    """Write the graph file `path` beside the data file of `weights`; states are float16, those named `float32` that."""
    graph = Graph(weights.file)
    ids, position, sinks = inputs(graph)
    oldest = oldest_input(graph)
    ops = KernelOps(graph, weights)
    specs = [AttentionSpec.of(model, stream, view) for view in model.views]
    views = [RingAttention(ops, spec, ids, position, sinks, oldest, float32) for spec in specs]
    outputs(graph, decoder(model, ops, by_view(model, views), ids), model.vocab)
    graph.save(path, model.name)


@dataclass(frozen=True)
class Normed:
    """A value and the norm that the product it goes into applies."""

    x: Value
    norm: Norm


@dataclass(frozen=True)
class Packed:
    """Heads side by side in a value that may hold others too: [1, T, heads D]."""

    x: Value
    first: int  # head of x
    count: int
    norm: Norm | None = None  # of each head, which the attention applies


class KernelOps(StepOps):
    """The vocabulary over our operators; satisfies `graph.Ops`. Heads stay side by side (`Packed`)."""

    def __init__(self, graph: Graph, weights: OnnxWeights) -> None:
        super().__init__(graph)
        self._weights = weights

    def embed(self, ids: Value, weight: str, scale: float) -> Value:
        table = self._weights.vocabulary(weight)
        rows = self.graph.node(
            "BlockRows", ids, *self._given(*self._matrix(table)), dtype=np.float32, domain=EDGESINK,
            rows=table.rows, columns=table.columns, bits=table.bits, table=table.table,
        )  # fmt: skip
        return rows if scale == 1 else rows * scale

    def norm(self, x: Value | Packed, norm: Norm) -> Value | Normed | Packed:
        """An RMSNorm is taken along by what comes next; a LayerNorm is ONNX Runtime's own."""
        if isinstance(x, Packed):
            return replace(x, norm=norm)
        return Normed(x, norm) if norm.kind == "rms" else self._normalized(x, norm)

    def _normalized(self, x: Value, norm: Norm) -> Value:
        """Through ONNX Runtime's own norm."""
        return normalized(self.graph, x, norm, [self.vector(name) for name in (norm.weight, norm.bias) if name])

    def heads(self, x: Normed | Value, *projections: Projection) -> tuple[Packed, ...]:
        stored = self._weights.matrices(*(projection.weight for projection in projections))
        counts = [projection.heads for projection in projections]
        dim = sum(matrix.rows for matrix in stored) // sum(counts)
        products: list[Value] = []
        for matrix, group in by_matrix(stored, projections):
            product = self._product(x, matrix, bias=self._bias(group))
            products += clipped_and_normed(self.graph, product, group, dim, self._normalized)
        packed = products[0] if len(products) == 1 else self.graph.node("Concat", *products, axis=2)
        return tuple(Packed(packed, sum(counts[:i]), count) for i, count in enumerate(counts))

    def merge(self, context: Packed, width: int) -> Value:
        return context.x  # side by side already

    def residual(self, x: Value, y: Value, product: Product, after: Norm | None) -> Value:
        stored = self._weights.matrices(product.weight)[0]
        return self._product(y, stored, residual=x, bias=self._vector_of(product), after=after)

    def gated(self, x: Normed | Value, gate: str, up: str, activation: Activation) -> Value:
        stored = self._weights.pair(gate, up)
        if stored[0].in_turn and activation in GATES:
            return self._product(x, stored[0], gated=GATES[activation])
        return gated(self.graph, stored, [self._product(x, one) for one in stored], activation)

    def plain(self, x: Normed | Value, up: Product, activation: Activation) -> Value:
        inner = self._product(x, self._weights.matrices(up.weight)[0], bias=self._vector_of(up))
        return activated(self.graph, inner, activation)

    def head(self, x: Normed | Value, weight: str) -> Value:
        return self._product(x, self._weights.vocabulary(weight), coarse=False)

    def _bias(self, projections: Sequence[Projection]) -> Value | None:
        """The biases of projections that are one product, one behind the other; None if there are none."""
        biases = [projection.bias for projection in projections if projection.bias is not None]
        assert len(biases) in (0, len(projections)), "a product of some projections with a bias and some without"
        return self.vector(*biases) if biases else None

    def _vector_of(self, product: Product) -> Value | None:
        """Its bias, if it has one."""
        return None if product.bias is None else self.vector(product.bias)

    def _product(
        self,
        x: Normed | Value,
        weight: Stored,
        residual: Value | None = None,
        gated: int = 0,
        bias: Value | None = None,
        after: Norm | None = None,
        coarse: bool = True,
    ) -> Value:
        """x @ w.T, with all that the operator takes along: the norm before it, its gate or its bias, the norm after it
        and the residual stream. A coarse one may round a long pass to 8 bits."""
        before = x.norm if isinstance(x, Normed) else None
        norm = before or after
        codes, scale, offset, *factors = self._matrix(weight)
        optional = [
            offset,
            self.vector(before.weight) if before else None,
            residual,
            bias,
            self.vector(after.weight) if after else None,
            *factors,
        ]
        return self.graph.node(
            "BlockProduct", x.x if isinstance(x, Normed) else x, *self._given(codes, scale, *optional),
            domain=EDGESINK, rows=weight.rows, bits=weight.bits, table=weight.table, gated=gated,
            epsilon=norm.eps if norm else UNREAD_EPSILON, coarse=int(coarse),
        )  # fmt: skip

    def vector(self, *weights: str) -> Value:
        return self.graph.initializer(self._weights.vector(*weights))

    def _matrix(self, weight: Stored) -> list[Value | None]:
        """Its codes, scale, offset, factors and offset_factors; None for what it has not."""
        has = weight.tensors
        return [self.graph.initializer(f"{weight.name}.{part}") if part in has else None for part in PARTS]

    def _given(self, *values: Value | None) -> list[Value]:
        """Inputs of a node: none at the end that is left out."""
        count = max(place for place, value in enumerate(values) if value is not None) + 1
        return [self.graph.absent() if value is None else value for value in values[:count]]


class RingAttention:
    """A node a layer, over the phases of a step's tokens as they stand in the stream and as the sinks see them."""

    def __init__(
        self,
        ops: KernelOps,
        spec: AttentionSpec,
        ids: Value,
        position: Value,
        sinks: Value,
        oldest: Value | None = None,
        float32: Collection[str] = (),
    ) -> None:
        self._ops, self._spec, self._position, self._float32 = ops, spec, position, float32
        self._oldest = oldest if spec.sinks else None
        self._sinks = sinks if spec.sinks else ops.constant(NO_SINKS)
        token = position + ops.arange(ids)  # [T]
        self._phases = self._phase(token)
        if spec.positions == "cache":
            self._phases += self._phase(ops.minimum(token, spec.capacity - 1))
        else:
            self._phases *= 2

    def _phase(self, position: Value) -> list[Value]:
        """cos and sin at position [T], each pair with its amplitude: float32 [1, T, D/2]."""
        phases = list(self._ops.angles(position, self._spec.frequencies))
        if (self._spec.amplitudes != 1).any():
            phases = [phase * self._spec.amplitudes for phase in phases]
        return [self._ops.phase(phase) for phase in phases]

    def __call__(self, layer: int, q: Packed, k: Packed, v: Packed) -> Packed:
        """The context of one layer, [1, T, H D]; its state is written on the way."""
        graph, heads = self._ops.graph, self._spec.heads
        shape = [1, heads.keys, self._spec.rows, heads.dim]
        states = [names.key(layer), names.value(layer)]
        dtypes = [np.float32 if name in self._float32 else np.float16 for name in states]
        given = [graph.input(name, dtype, shape) for name, dtype in zip(states, dtypes, strict=True)]
        context, *written = graph.nodes(
            "RingAttention", _together(heads, q, k, v), *given, self._position, self._sinks, *self._phases,
            *self._optional(q, k),
            outputs=[f"context_{layer}", *(names.updated(name) for name in states)],
            dtypes=[np.float32, *dtypes],
            domain=EDGESINK, heads=heads.queries, capacity=self._spec.capacity, coarse=1, **self._numbers(q, k),
        )  # fmt: skip
        for value in written:
            graph.output(value, shape)
        return Packed(context, 0, heads.queries)

    def _optional(self, q: Packed, k: Packed) -> list[Value]:
        """The weights of the norms of queries and keys, [D] each, and `oldest`, if any; and `logit_rows`."""
        norms = [self._ops.vector(x.norm.weight) if x.norm else None for x in (q, k)]
        given = [*norms, self._oldest, self._ops.logit_rows]
        return [self._ops.graph.absent() if value is None else value for value in given]

    def _numbers(self, q: Packed, k: Packed) -> dict[str, float]:
        """The scale of q · k where it is not the usual one, and the eps of the norms."""
        numbers = {} if self._spec.scale == self._spec.heads.dim**-0.5 else {"scale": self._spec.scale}
        norm = q.norm or k.norm
        return numbers if norm is None else {**numbers, "epsilon": norm.eps}


def _together(heads: Heads, q: Packed, k: Packed, v: Packed) -> Value:
    """The value that holds q, k and v one behind the other, the only way in which the operator takes them."""
    H, K = heads.queries, heads.keys
    places = [(part.x, part.first, part.count) for part in (q, k, v)]
    assert places == [(q.x, 0, H), (q.x, H, K), (q.x, H + K, K)], "q, k, v are not side by side"
    return q.x
