"""ONNX graphs under construction: values with operators, nodes, and weights streamed to external data.

Owns the spelling of ONNX (node and initializer protobufs, constants) and the data file, which several graphs may share.
Knows nothing of decoders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 24  # the first with Attention whose key/value state the caller owns
MICROSOFT = "com.microsoft"
INLINE_BYTES = 1024  # smaller initializers stay in the graph file
ALIGNMENT = 64  # of external data: a line of a processor's cache
PIECE_BYTES = 4 << 20  # of the data file, written at once: what is written so, Linux keeps in huge pages

Operand = Any
"""A `Value`, a number, or an array: what is not a `Value` becomes a constant of the other operand's type."""


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name and element type. Operators add nodes."""

    graph: Graph
    name: str
    dtype: np.dtype
    shape: tuple[int, ...] = ()  # of initializers

    def __add__(self, other: Operand) -> Value:
        return self.graph.node("Add", self, other)

    def __sub__(self, other: Operand) -> Value:
        return self.graph.node("Sub", self, other)

    def __mul__(self, other: Operand) -> Value:
        return self.graph.node("Mul", self, other)

    def __mod__(self, other: Operand) -> Value:
        return self.graph.node("Mod", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.graph.node("Sub", self.graph.like(self, other), self)

    def __lt__(self, other: Operand) -> Value:
        return self.graph.node("Less", self, other, dtype=np.bool_)

    def __le__(self, other: Operand) -> Value:
        return self.graph.node("LessOrEqual", self, other, dtype=np.bool_)

    def __gt__(self, other: Operand) -> Value:
        return self.graph.node("Greater", self, other, dtype=np.bool_)

    def __ge__(self, other: Operand) -> Value:
        return self.graph.node("GreaterOrEqual", self, other, dtype=np.bool_)

    def __and__(self, other: Operand) -> Value:
        return self.graph.node("And", self, other)

    def __or__(self, other: Operand) -> Value:
        return self.graph.node("Or", self, other)

    def __getitem__(self, part: slice) -> Value:
        """A slice of the first axis."""
        stop = part.stop if part.stop is not None else np.iinfo(np.int64).max
        return self.graph.slice(self, part.start or 0, stop, axis=0)


class WeightFile:
    """The external data of one graph or more; bytes are written once, when a weight is first stored."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._data: BinaryIO = path.open("wb", buffering=PIECE_BYTES)
        self._tensors: dict[str, onnx.TensorProto] = {}
        self.sizes: dict[str, int] = {}  # bytes of each tensor that was stored

    def tensor(self, name: str, array: np.ndarray | None = None) -> onnx.TensorProto:
        """The protobuf of a weight; `array` is stored if the name is new."""
        if name not in self._tensors:
            assert array is not None, f"{name} was never stored"
            self._tensors[name], self.sizes[name] = self._stored(name, array), array.nbytes
        return self._tensors[name]

    def same_bytes(self, name: str, stored: str, kind: int, shape: Sequence[int]) -> None:
        """Name the bytes of a tensor that is stored a second time, as elements of another type."""
        self._tensors[name] = tensor = onnx.TensorProto()
        tensor.CopyFrom(self._tensors[stored])
        tensor.name, tensor.data_type = name, kind
        tensor.dims[:] = shape

    def close(self) -> None:
        self._data.close()

    def _stored(self, name: str, array: np.ndarray) -> onnx.TensorProto:
        if array.nbytes < INLINE_BYTES:
            return numpy_helper.from_array(np.ascontiguousarray(array), name)
        self._data.write(b"\0" * (-self._data.tell() % ALIGNMENT))
        tensor = TensorProto(name=name, data_type=_element_type(array.dtype), dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": self._name, "offset": self._data.tell(), "length": array.nbytes}.items():
            tensor.external_data.add(key=key, value=str(value))
        self._write(np.ascontiguousarray(array).data.cast("B"))
        return tensor

    def _write(self, data: memoryview) -> None:
        """In pieces that end where those of the file do, whatever the length of a tensor."""
        while len(data):
            count = PIECE_BYTES - self._data.tell() % PIECE_BYTES
            self._data.write(data[:count])
            if len(data) >= count:
                self._data.flush()
            data = data[count:]


class Graph:
    """Nodes, inputs, outputs and initializers; those that are large go to the file `weights`."""

    def __init__(self, weights: WeightFile) -> None:
        self.weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._count = 0

    # ---- values

    def input(self, name: str, dtype: Any, shape: Sequence[int | str], default: np.ndarray | None = None) -> Value:
        """Declare a graph input; a string dimension is symbolic. One with a default may be left out."""
        self._inputs.append(helper.make_tensor_value_info(name, _element_type(dtype), shape))
        if default is not None:
            self._initializers[name] = numpy_helper.from_array(default, name)
        return Value(self, name, np.dtype(dtype))

    def output(self, value: Value, shape: Sequence[int | str]) -> None:
        """Declare `value`, named as its output when its node was made, as a graph output."""
        self._outputs.append(helper.make_tensor_value_info(value.name, _element_type(value.dtype), shape))

    def constant(self, array: Any, dtype: Any = None) -> Value:
        """A small constant; the same array is stored once."""
        array = np.asarray(array, dtype)
        digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
        name = f"const_{array.dtype}_{'x'.join(map(str, array.shape))}_{digest}"
        return self.initializer(name, array)

    def like(self, value: Value, operand: Operand) -> Value:
        """`operand` as a value of the type of `value`."""
        return operand if isinstance(operand, Value) else self.constant(operand, value.dtype)

    def initializer(self, name: str, array: np.ndarray | None = None) -> Value:
        """A weight; its bytes are written to the file the first time that any graph of the file uses the name."""
        tensor = self._initializers.setdefault(name, self.weights.tensor(name, array))
        return Value(self, name, helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims))

    def absent(self) -> Value:
        """Stands for an optional input that is not given."""
        return Value(self, "", np.dtype(np.float32))

    def node(
        self, op: str, *operands: Operand, dtype: Any = None, domain: str = "", name: str = "", **attributes: Any
    ) -> Value:
        """Add a node of one output; its type is that of the first operand unless given."""
        outputs = [name or self._fresh(op)]
        return self.nodes(op, *operands, outputs=outputs, dtypes=[dtype], domain=domain, **attributes)[0]

    def nodes(
        self,
        op: str,
        *operands: Operand,
        outputs: Sequence[str],
        dtypes: Sequence[Any],
        domain: str = "",
        **attributes: Any,
    ) -> tuple[Value, ...]:
        """Add a node of several outputs, each named; a type None is that of the first operand."""
        first = next(operand for operand in operands if isinstance(operand, Value))
        inputs = [self.like(first, operand) for operand in operands]
        self._nodes.append(
            helper.make_node(op, [v.name for v in inputs], outputs, name=outputs[0], domain=domain, **attributes)
        )
        return tuple(Value(self, n, np.dtype(t or first.dtype)) for n, t in zip(outputs, dtypes, strict=True))

    def _fresh(self, op: str) -> str:
        self._count += 1
        return f"{op}_{self._count}"

    # ---- shapes

    def reshape(self, x: Value, *shape: int) -> Value:
        """-1 is what is left."""
        return self.node("Reshape", x, self.constant(shape, np.int64))

    def slice(self, x: Value, start: Operand, stop: Operand, axis: int) -> Value:
        """x[start:stop] along `axis`; the bounds may be values [1]."""

        def bound(b: Operand) -> Value:
            return b if isinstance(b, Value) else self.constant([b], np.int64)

        return self.node("Slice", x, bound(start), bound(stop), self.constant([axis], np.int64))

    def split(self, x: Value, sizes: Sequence[int], axis: int) -> tuple[Value, ...]:
        """x cut along `axis` into pieces of these sizes."""
        outputs, dtypes = [self._fresh("Split") for _ in sizes], [None] * len(sizes)
        return self.nodes("Split", x, self.constant(sizes, np.int64), outputs=outputs, dtypes=dtypes, axis=axis)

    def unsqueeze(self, x: Value, axis: int) -> Value:
        return self.node("Unsqueeze", x, self.constant([axis], np.int64))

    def numbers(self, x: Value, axis: int) -> Value:
        """0, 1 … as many as x is long along `axis`: int64."""
        length = self.node("Squeeze", self.node("Shape", x, start=axis, end=axis + 1, dtype=np.int64))
        return self.node("Range", self.constant(0, np.int64), length, self.constant(1, np.int64))

    def cast(self, x: Value, dtype: Any) -> Value:
        return x if x.dtype == np.dtype(dtype) else self.node("Cast", x, to=_element_type(dtype), dtype=dtype)

    # ---- finish

    def save(self, path: Path, name: str) -> None:
        """Write the graph file; it belongs beside the data file."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, list(self._initializers.values()))
        domains = {node.domain for node in self._nodes}
        opsets = [helper.make_opsetid("", OPSET)]
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted(domains - {""})]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets, ignore_unknown=True)
        )
        model.producer_name = "edgesink"
        path.write_bytes(model.SerializeToString())


def _element_type(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
