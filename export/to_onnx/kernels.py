"""The decoder as an ONNX graph over the operators of `kernels/`, beside the graph of standard ones.

Owns what the vocabulary means there: a layer is four products that take their norm, their gate and the residual stream
along, and one attention that writes the ring and knows which rows a token sees. Weights are the other graph's, from the
same file, their rows side by side (`kernel_image`); keys and values are float16. A runner takes this graph where its
processor has the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from edgesink import names
from edgesink.export.attention import NO_SINKS, AttentionSpec, Heads, by_view
from edgesink.export.graph import Norm, Projection, decoder
from edgesink.export.quantize import BLOCK
from edgesink.export.to_onnx.builder import Graph, Value, WeightFile, bytes_outside, place_outside
from edgesink.export.to_onnx.ops import StepOps, activated, inputs, outputs
from edgesink.export.to_onnx.weights import OnnxWeights, Stored
from edgesink.kernel_image import GROUP, LOCATION, Image, Part
from edgesink.spec import Activation, ModelSpec, StreamSpec
from edgesink.targets import Precision, lacks

EDGESINK = "edgesink"  # the domain of the operators in kernels/onnxruntime.c
UNREAD_EPSILON = 1e-5  # of a product that takes no norm along: the operator asks for the attribute
HALF, WORD = 2, 4  # bytes: a scale; the codes of a row that a lane takes at once
NIBBLES = 16  # bytes of a block of codes in 4 bits
GATES: dict[Activation, int] = {"silu": 1, "gelu_tanh": 2}  # as the operator counts them; 0: no gate


def runs_on_kernels(model: ModelSpec, precision: Precision) -> bool:
    """Whether the operators can hold this model; `lacks` says why not."""
    return not lacks("onnx", precision, model.as_data())


def write_kernels_graph(path: Path, image: Path, model: ModelSpec, stream: StreamSpec, weights: OnnxWeights) -> None:
    """Write the graph file `path` and `image`, the list of its weights in the data file of `weights`."""
    tensors = ImageTensors(weights.file)
    graph = Graph(tensors)
    ids, position, sinks = inputs(graph)
    ops = KernelOps(graph, weights, tensors)
    views = [RingAttention(ops, AttentionSpec.of(model, stream, view), ids, position, sinks) for view in model.views]
    outputs(graph, decoder(model, ops, by_view(model, views), ids), model.vocab)
    graph.save(path, model.name)
    image.write_text(Image(tuple(tensors.parts)).to_json(), encoding="utf-8")


class ImageTensors:
    """The initializers of the graph: small ones in it, others in the image, which notes where their bytes come from."""

    def __init__(self, file: WeightFile) -> None:
        self._file = file
        self.parts: list[Part] = []
        self._tensors: dict[str, onnx.TensorProto] = {}

    def tensor(self, name: str, array: np.ndarray | None = None) -> onnx.TensorProto:
        """See `builder.Tensors`."""
        if name in self._tensors:
            return self._tensors[name]
        if array is None:
            return self._file.tensor(name)
        return numpy_helper.from_array(np.ascontiguousarray(array), name)  # a constant: it lies in no file

    def vector(self, name: str) -> None:
        """A tensor whose bytes stay in order."""
        self._place(name, self._file.tensor(name).dims, rows=1, unit=HALF)

    def side_by_side(self, name: str, rows: int, columns: int, unit: int, nibbles: bool = False) -> None:
        """The first `columns` units of each row: [rows / 16, columns, 16], and for words uint8 […, 4]."""
        shape = [-(-rows // GROUP), columns, GROUP, *([WORD] if unit == WORD else [])]
        self._place(name, shape, rows, NIBBLES if nibbles and unit == WORD else unit, columns * unit)

    def _place(self, name: str, shape: Sequence[int], rows: int, unit: int, kept: int = 0) -> None:
        if name in self._tensors:
            return
        tensor = onnx.TensorProto()
        tensor.CopyFrom(self._file.tensor(name))
        place = bytes_outside(tensor)
        assert place is not None or rows == 1, f"{name} is not apart"
        if place is not None:
            offset, length = place
            self.parts.append(Part(offset, rows, length // rows, kept or length, unit))
            tensor.dims[:] = shape
            place_outside(tensor, LOCATION, Image(tuple(self.parts)).offsets[-2], self.parts[-1].image_bytes)
        self._tensors[name] = tensor


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

    def __init__(self, graph: Graph, weights: OnnxWeights, tensors: ImageTensors) -> None:
        super().__init__(graph)
        self._weights, self._tensors = weights, tensors

    def embed(self, ids: Value, weight: str, scale: float) -> Value:
        table = self._weights.vocabulary(weight)
        rows = self.graph.node(
            "BlockRows", ids, *self._matrix(table), dtype=np.float32,
            domain=EDGESINK, rows=table.rows, columns=table.columns, bits=table.bits,
        )  # fmt: skip
        return rows if scale == 1 else rows * scale

    def norm(self, x: Value | Packed, norm: Norm) -> Normed | Packed:
        return replace(x, norm=norm) if isinstance(x, Packed) else Normed(x, norm)

    def heads(self, x: Normed | Value, *projections: Projection) -> tuple[Packed, ...]:
        stored = self._weights.matrices(*(projection.weight for projection in projections))
        groups = [projections] if len(stored) == 1 else [[projection] for projection in projections]
        counts = [projection.heads for projection in projections]
        together = [
            self._product(x, matrix, bias=self._bias(group)) for matrix, group in zip(stored, groups, strict=True)
        ]
        packed = together[0] if len(together) == 1 else self.graph.node("Concat", *together, axis=2)
        return tuple(Packed(packed, sum(counts[:i]), count) for i, count in enumerate(counts))

    def merge(self, context: Packed, width: int) -> Value:
        return context.x  # side by side already

    def residual(self, x: Value, y: Value, weight: str, after: Norm | None) -> Value:
        return self._product(y, self._weights.matrices(weight)[0], residual=x, after=after)

    def gated(self, x: Normed | Value, gate: str, up: str, activation: Activation) -> Value:
        stored = self._weights.matrices(gate, up)
        if len(stored) == 1:
            return self._product(x, stored[0], gated=GATES[activation])
        a, b = (self._product(x, one) for one in stored)
        return activated(self.graph, a, activation) * b

    def head(self, x: Normed | Value, weight: str) -> Value:
        return self._product(x, self._weights.vocabulary(weight))

    def _bias(self, projections: Sequence[Projection]) -> Value | None:
        """The biases of projections that are one product, one behind the other; None if there are none."""
        biases = [projection.bias for projection in projections if projection.bias is not None]
        assert len(biases) in (0, len(projections)), "a product of some projections with a bias and some without"
        return self.vector(*biases) if biases else None

    def _product(
        self,
        x: Normed | Value,
        weight: Stored,
        residual: Value | None = None,
        gated: int = 0,
        bias: Value | None = None,
        after: Norm | None = None,
    ) -> Value:
        """x @ w.T, with all that the operator takes along: the norm before it, its gate or its bias, the norm after it
        and the residual stream."""
        graph, absent, matrix = self.graph, self.graph.absent(), self._matrix(weight)
        before = x.norm if isinstance(x, Normed) else None
        norm = before or after
        optional = [
            self.vector(before.weight) if before else absent,
            residual or absent,
            bias or absent,
            self.vector(after.weight) if after else absent,
        ]
        while len(optional) > 2 and optional[-1] is absent:
            optional.pop()
        return graph.node(
            "BlockProduct", x.x if isinstance(x, Normed) else x, *matrix, *optional,
            domain=EDGESINK, rows=weight.rows, bits=weight.bits, gated=gated,
            epsilon=norm.eps if norm else UNREAD_EPSILON,
        )  # fmt: skip

    def vector(self, *weights: str) -> Value:
        name = self._weights.vector(*weights)
        self._tensors.vector(name)
        return self.graph.initializer(name)

    def _matrix(self, weight: Stored) -> list[Value]:
        """Its codes, scales and offsets as the operators take them."""
        scale, blocks = "half_scale" if weight.half_scale else "scale", weight.columns // BLOCK
        parts = {"codes": (blocks * weight.bits, WORD), scale: (blocks, HALF)}  # units of a row; BLOCK bits / 8 / WORD
        if not weight.symmetric:
            parts["offset"] = (blocks, HALF)
        for part, (columns, unit) in parts.items():
            self._tensors.side_by_side(f"{weight.name}.{part}", weight.rows, columns, unit, nibbles=weight.bits == 4)
        values = [self.graph.initializer(f"{weight.name}.{part}") for part in parts]
        return [*values, self.graph.absent()] if weight.symmetric else values


class RingAttention:
    """A node a layer, over the phases of a step's tokens as they stand in the stream and as the sinks see them."""

    def __init__(self, ops: KernelOps, spec: AttentionSpec, ids: Value, position: Value, sinks: Value) -> None:
        self._ops, self._spec, self._position = ops, spec, position
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
        given = [graph.input(name, np.float16, shape) for name in states]
        context, *written = graph.nodes(
            "RingAttention", _together(heads, q, k, v), *given, self._position, self._sinks, *self._phases,
            *self._norms(q, k),
            outputs=[f"context_{layer}", *(names.updated(name) for name in states)],
            dtypes=[np.float32, np.float16, np.float16],
            domain=EDGESINK, heads=heads.queries, capacity=self._spec.capacity, **self._numbers(q, k),
        )  # fmt: skip
        for value in written:
            graph.output(value, shape)
        return Packed(context, 0, heads.queries)

    def _norms(self, q: Packed, k: Packed) -> list[Value]:
        """The weights of the norms of queries and keys, where there are any: [D] each."""
        if q.norm is None and k.norm is None:
            return []
        return [self._ops.vector(x.norm.weight) if x.norm else self._ops.graph.absent() for x in (q, k)]

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
