"""The decoder as an ONNX graph over the operators of `kernels/`, beside the graph of standard ones.

Owns what the vocabulary means there: a layer is four products that take their norm, their gate and the residual stream
along, and one attention that writes the ring and knows which rows a token sees. Weights are the other graph's, from the
same file, their rows side by side (`kernel_image`); keys and values are float16. A runner takes this graph where its
processor has the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgesink import names
from edgesink.export.graph import decoder
from edgesink.export.quantize import BLOCK
from edgesink.export.to_onnx.builder import EDGESINK, Graph, Value, WeightFile, bytes_outside, place_outside
from edgesink.export.to_onnx.ops import OnnxOps, inputs, outputs
from edgesink.export.to_onnx.weights import OnnxWeights, Stored
from edgesink.kernel_image import GROUP, LOCATION, Image, Part
from edgesink.spec import ModelSpec, Precision, StreamSpec

HALF, WORD = 2, 4  # bytes: a scale; the codes of a row that a lane takes at once
QUANTISED: tuple[Precision, ...] = ("int4", "int8")


def runs_on_kernels(model: ModelSpec, precision: Precision) -> bool:
    """Whether the operators can hold this model."""
    whole = model.head_dim % GROUP == 0 and model.hidden % BLOCK == 0 and model.intermediate % BLOCK == 0
    return precision in QUANTISED and whole


def write_kernels_graph(path: Path, image: Path, model: ModelSpec, stream: StreamSpec, weights: OnnxWeights) -> None:
    """Write the graph file `path` and `image`, the list of its weights in the data file of `weights`."""
    tensors = ImageTensors(weights.file)
    graph = Graph(tensors)
    ids, position, sinks = inputs(graph)
    ops = KernelOps(graph, model, stream, weights, tensors)
    outputs(graph, model, decoder(model, ops, Attention(ops, ids, position, sinks), ids))
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
        return self._tensors.get(name) or self._file.tensor(name, array)

    def vector(self, name: str) -> None:
        """A tensor whose bytes stay in order."""
        self._place(name, self._file.tensor(name).dims, rows=1, unit=HALF)

    def side_by_side(self, name: str, rows: int, columns: int, unit: int) -> None:
        """The first `columns` units of each row: [rows / 16, columns, 16], and for words uint8 […, 4]."""
        shape = [-(-rows // GROUP), columns, GROUP, *([WORD] if unit == WORD else [])]
        self._place(name, shape, rows, unit, columns * unit)

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
    weight: str


class KernelOps(OnnxOps):
    """The vocabulary over our operators; satisfies `graph.Ops`. Heads stay side by side: [1, T, heads D]."""

    def __init__(
        self, graph: Graph, model: ModelSpec, stream: StreamSpec, weights: OnnxWeights, tensors: ImageTensors
    ) -> None:
        super().__init__(graph, model, weights)
        self.stream, self._tensors = stream, tensors

    def embed(self, ids: Value) -> Value:
        table = self.weights.vocabulary("embedding")
        return self.graph.node(
            "BlockRows", ids, *self._matrix(table), dtype=np.float32,
            domain=EDGESINK, rows=table.rows, columns=table.columns, bits=table.bits,
        )  # fmt: skip

    def norm(self, x: Value, weight: str) -> Any:
        return Normed(x, weight)

    def heads(self, x: Any, *weights: tuple[str, int]) -> tuple[Value, ...]:
        products = [self._block_product(x, stored) for stored in self.weights.matrices(*(name for name, _ in weights))]
        packed = products[0] if len(products) == 1 else self.graph.node("Concat", *products, axis=2)
        return (packed,) * len(weights)  # the attention takes them as they are

    def merge(self, context: Value) -> Value:
        return context

    def add_product(self, x: Value, y: Value, weight: str) -> Value:
        return self._block_product(y, self.weights.matrices(weight)[0], residual=x)

    def gated(self, x: Any, gate: str, up: str) -> Value:
        stored = self.weights.matrices(gate, up)
        if len(stored) == 1:
            return self._block_product(x, stored[0], gated=True)
        a, b = (self._block_product(x, one) for one in stored)
        return a * self.graph.node("Sigmoid", a) * b

    def head(self, x: Any) -> Value:
        return self._block_product(x, self.weights.vocabulary("embedding" if self.model.tied else "head"))

    def _block_product(
        self, x: Normed | Value, weight: Stored, residual: Value | None = None, gated: bool = False
    ) -> Value:
        graph, absent = self.graph, self.graph.absent()
        normed = x if isinstance(x, Normed) else None
        return graph.node(
            "BlockProduct",
            normed.x if normed else x,
            *self._matrix(weight),
            self._norm(normed.weight) if normed else absent,
            residual or absent,
            domain=EDGESINK, rows=weight.rows, bits=weight.bits, gated=int(gated),
            epsilon=self.model.norm_eps,
        )  # fmt: skip

    def _norm(self, weight: str) -> Value:
        self._tensors.vector(self.weights.vector(weight))
        return self.graph.initializer(weight)

    def _matrix(self, weight: Stored) -> list[Value]:
        """Its codes, scales and offsets as the operators take them."""
        scale, blocks = "half_scale" if weight.half_scale else "scale", weight.columns // BLOCK
        parts = {"codes": (blocks * weight.bits, WORD), scale: (blocks, HALF)}  # units of a row; BLOCK bits / 8 / WORD
        if not weight.symmetric:
            parts["offset"] = (blocks, HALF)
        for part, (columns, unit) in parts.items():
            self._tensors.side_by_side(f"{weight.name}.{part}", weight.rows, columns, unit)
        found = [self.graph.initializer(f"{weight.name}.{part}") for part in parts]
        return [*found, self.graph.absent()] if weight.symmetric else found

    def ring(self, layer: int, qkv: Value, phases: list[Value], position: Value, sinks: Value) -> Value:
        """The context of one layer, [1, T, H D]; its state is written on the way."""
        model, graph = self.model, self.graph
        shape = [1, model.kv_heads, self.stream.rows, model.head_dim]
        states = [names.key(layer), names.value(layer)]
        given = [graph.input(name, np.float16, shape) for name in states]
        context, *written = graph.nodes(
            "RingAttention", qkv, *given, position, sinks, *phases,
            outputs=[f"context_{layer}", *(names.updated(name) for name in states)],
            dtypes=[np.float32, np.float16, np.float16],
            domain=EDGESINK, heads=model.heads, capacity=self.stream.capacity,
        )  # fmt: skip
        for value in written:
            graph.output(value, shape)
        return context


class Attention:
    """The phases of a step's tokens, as they stand in the stream and as the sinks see them, and a node a layer."""

    def __init__(self, ops: KernelOps, ids: Value, position: Value, sinks: Value) -> None:
        self.ops, self.position, self.sinks = ops, position, sinks
        token = position + ops.arange(ids)  # [T]
        frequencies = ops.model.rope.inverse_frequencies(ops.model.head_dim)
        self.phases = [ops.phase(x) for x in ops.angles(token, frequencies)]
        if ops.stream.positions == "cache":
            bounded = ops.minimum(token, ops.stream.capacity - 1)
            self.phases += [ops.phase(x) for x in ops.angles(bounded, frequencies)]
        else:
            self.phases *= 2

    def __call__(self, layer: int, q: Value, k: Value, v: Value) -> Value:
        return self.ops.ring(layer, q, self.phases, self.position, self.sinks)
