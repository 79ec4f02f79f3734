"""A saved Core ML package, read from its files alone.

Owns the container: `Manifest.json`, the protobuf of the `.mlmodel` inside, the records of the weight file. Refuses
to know what an operation means (`ops`) or how a program runs (`evaluator`). Of coremltools it uses the
generated protobuf classes and nothing else, so that a fault in what wrote a package is not repeated in reading it.

Follows Apple's published format: Model.proto, MIL.proto and FeatureTypes.proto of the Core ML specification, and
the layout of MILBlob's weight storage (version 2), which `_record` spells out.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgesink.errors import BadBundle
from edgesink.quiet import quiet_coremltools

Array = np.ndarray
UNKNOWN = -1  # a dimension that is known at run time only


@dataclass(frozen=True)
class Format:
    """How elements of one MIL data type are stored."""

    bits: int  # per element in the file; below 8 they are packed, lowest bits first
    holder: type  # numpy scalar that holds one element once read
    record: int = 0  # the type's number in a weight record; 0: never in a weight file


FORMATS = {
    "fp16": Format(16, np.float16, 1),
    "fp32": Format(32, np.float32, 2),
    "uint8": Format(8, np.uint8, 3),
    "int8": Format(8, np.int8, 4),
    "int16": Format(16, np.int16, 6),
    "uint16": Format(16, np.uint16, 7),
    "int4": Format(4, np.int8, 8),
    "uint1": Format(1, np.uint8, 9),
    "uint2": Format(2, np.uint8, 10),
    "uint4": Format(4, np.uint8, 11),
    "uint3": Format(3, np.uint8, 12),
    "uint6": Format(6, np.uint8, 13),
    "int32": Format(32, np.int32, 14),
    "uint32": Format(32, np.uint32, 15),
    "bool": Format(8, np.bool_),
}
_PROTO_NAMES = {"FLOAT16": "fp16", "FLOAT32": "fp32"}  # the other names differ by case only
_MAGIC = 0xDEADBEEF
_RECORD = struct.Struct("<IIQQQ32x")  # magic, data type, bytes, offset of the data, padding bits; 64 bytes


@dataclass(frozen=True)
class TensorType:
    """A MIL tensor type; a scalar has shape ()."""

    dtype: str  # a key of FORMATS, or "string"
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{['?' if size == UNKNOWN else size for size in self.shape]}"


@dataclass(frozen=True)
class Value:
    """A constant of the program: written into the program itself, or a record of a weight file."""

    type: TensorType
    immediate: Array | str | None = None
    file: str = ""  # as the program spells it; "" for an immediate value
    offset: int = 0  # bytes, of the record in the file


@dataclass(frozen=True)
class Operation:
    """One operation; its inputs are names of earlier values, or constants."""

    kind: str
    name: str
    inputs: dict[str, tuple[str | Value, ...]]
    outputs: tuple[tuple[str, TensorType], ...]


@dataclass(frozen=True)
class Function:
    """One entry point of the program: straight-line operations in order."""

    name: str
    inputs: dict[str, TensorType]
    states: dict[str, TensorType]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Interface:
    """What the model's description promises about one function."""

    inputs: dict[str, TensorType] = field(default_factory=dict)
    outputs: dict[str, TensorType] = field(default_factory=dict)
    states: dict[str, TensorType] = field(default_factory=dict)


@dataclass(frozen=True)
class MilPackage:
    """A package that was read and found whole; the weights stay on disk, memory-mapped."""

    path: Path
    spec_version: int
    default_function: str
    functions: dict[str, Function]
    interfaces: dict[str, Interface]  # of the same functions
    metadata: dict[str, str]  # user-defined
    weight_files: dict[str, Array]  # uint8, by the name that the program gives them

    def array(self, value: Value) -> Array | str:
        """The constant as it is stored: shape and holder dtype of its type, sub-byte elements unpacked."""
        if value.immediate is not None:
            return value.immediate
        start, size = self.record(value)
        return _unpack(self.weight_files[value.file][start : start + size], value.type)

    def record(self, value: Value) -> tuple[int, int]:
        """Offset and size in bytes of the data of a weight record, checked against the type that it has to have."""
        data, (offset, expected) = self.weight_files[value.file], (value.offset, _packed_bytes(value.type))
        broken = f"{self.path}: the weight record at byte {offset} of {value.file}"
        if offset + _RECORD.size > data.size:
            raise BadBundle(f"{broken} lies past the file's {data.size} bytes", remedy=_REMEDY)
        magic, code, size, start, _ = _RECORD.unpack(data[offset : offset + _RECORD.size].tobytes())
        if magic != _MAGIC:
            raise BadBundle(f"{broken} starts with {magic:#x}", f"{_MAGIC:#x}", _REMEDY)
        if code != FORMATS[value.type.dtype].record or size != expected:
            raise BadBundle(f"{broken} holds {size} bytes of type {code}", f"{expected} for {value.type}", _REMEDY)
        if start + size > data.size:
            raise BadBundle(f"{broken} ends at byte {start + size}", f"at most {data.size}, the file's", _REMEDY)
        return start, size


_REMEDY = "copy or export the package again"


def open_package(path: str | Path) -> MilPackage:
    """Reads the package folder `path`; raises BadBundle where it is foreign, truncated or beyond what we read."""
    folder = Path(path)
    model_path = _model_path(folder)
    spec = _parse(model_path)
    if spec.WhichOneof("Type") != "mlProgram":
        raise BadBundle(f"{folder} holds a model of type {spec.WhichOneof('Type')}", "an ML program", _REMEDY)
    try:
        functions = {name: _function(name, proto) for name, proto in sorted(spec.mlProgram.functions.items())}
        interfaces, default = _interfaces(spec.description, list(functions))
    except _Unreadable as error:
        raise BadBundle(f"{folder} holds {error}", remedy="export with fixed shapes and no control flow") from None
    values = [
        value
        for function in functions.values()
        for operation in function.operations
        for argument in operation.inputs.values()
        for value in argument
        if isinstance(value, Value) and value.file
    ]
    package = MilPackage(
        path=folder,
        spec_version=spec.specificationVersion,
        default_function=default,
        functions=functions,
        interfaces=interfaces,
        metadata=dict(spec.description.metadata.userDefined),
        weight_files={name: _weight_file(model_path.parent, name) for name in {value.file for value in values}},
    )
    for value in values:
        package.record(value)  # a truncated file is found now, not in the middle of a run
    return package


class _Unreadable(Exception):
    """What the program holds and this reader does not read."""


def _model_path(folder: Path) -> Path:
    """The `.mlmodel` that `Manifest.json` names as the root."""
    manifest_path = folder / "Manifest.json"
    if not manifest_path.is_file():
        raise BadBundle(f"{folder} has no Manifest.json", "a Core ML package folder (.mlpackage)")
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        relative = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        return _inside(folder / "Data", relative)
    except (ValueError, KeyError, TypeError) as error:
        raise BadBundle(f"{manifest_path} cannot be read ({error!r})", "the manifest of a package", _REMEDY) from None


def _inside(folder: Path, relative: str) -> Path:
    """`folder / relative`, refused unless it is a file below the folder."""
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts:
        raise BadBundle(f"a path {relative!r} leads out of {folder}", "a path inside the package", _REMEDY)
    if not (folder / parts).is_file():
        raise BadBundle(f"{folder / parts} is missing", "a whole package", _REMEDY)
    return folder / parts


def _parse(model_path: Path) -> Any:
    """The Model message of a `.mlmodel` file."""
    from google.protobuf.message import DecodeError

    with quiet_coremltools():
        from coremltools.proto import Model_pb2
    model = Model_pb2.Model()
    try:
        model.ParseFromString(model_path.read_bytes())
    except DecodeError:
        raise BadBundle(f"{model_path} is not a Core ML model, or not all of one", remedy=_REMEDY) from None
    return model


def _weight_file(folder: Path, name: str) -> Array:
    """The bytes of a weight file, memory-mapped; `@model_path` is the folder of the `.mlmodel`."""
    return np.asarray(np.memmap(_inside(folder, name.removeprefix("@model_path/")), np.uint8, mode="r"))


def _interfaces(description: Any, names: list[str]) -> tuple[dict[str, Interface], str]:
    """What the description says of each function, and the default function's name."""
    default = description.defaultFunctionName or (names[0] if len(names) == 1 else "main")
    if default not in names:
        raise _Unreadable(f"functions {names}, none of them the default {default!r}")
    promised = {function.name: function for function in description.functions} or {default: description}
    return {name: _interface(promised[name]) if name in promised else Interface() for name in names}, default


def _interface(promised: Any) -> Interface:
    features = [{f.name: _feature_type(f) for f in part} for part in (promised.input, promised.output, promised.state)]
    return Interface(*features)


def _feature_type(feature: Any) -> TensorType:
    from coremltools.proto.FeatureTypes_pb2 import ArrayFeatureType

    kind = feature.type.WhichOneof("Type")
    if kind not in ("multiArrayType", "stateType"):
        raise _Unreadable(f"a feature {feature.name!r} of {kind}, not an array")
    array = feature.type.multiArrayType if kind == "multiArrayType" else feature.type.stateType.arrayType
    name = ArrayFeatureType.ArrayDataType.Name(array.dataType)
    return TensorType(_PROTO_NAMES.get(name, name.lower()), tuple(array.shape))


def _function(name: str, proto: Any) -> Function:
    if proto.opset not in proto.block_specializations:
        raise _Unreadable(f"a function {name!r} without a block for its operation set {proto.opset!r}")
    block = proto.block_specializations[proto.opset]
    states = {v.name: v.type.stateType.wrappedType for v in proto.inputs if v.type.HasField("stateType")}
    return Function(
        name=name,
        inputs={v.name: _tensor_type(v.type) for v in proto.inputs if v.name not in states},
        states={state: _tensor_type(wrapped) for state, wrapped in states.items()},
        outputs=tuple(block.outputs),
        operations=tuple(_operation(operation) for operation in block.operations),
    )


def _operation(proto: Any) -> Operation:
    """Constants come as attributes (`const`, iOS 16 `constexpr`), bound in place, or by name: all become inputs."""
    name = proto.attributes["name"].immediateValue.tensor.strings.values[0] if "name" in proto.attributes else ""
    if proto.blocks:
        raise _Unreadable(f"an operation {name!r} ({proto.type}) with nested blocks")
    inputs: dict[str, tuple[str | Value, ...]] = {
        key: (_value(value),) for key, value in proto.attributes.items() if key != "name"
    }
    for key, argument in proto.inputs.items():
        inputs[key] = tuple(_value(a.value) if a.HasField("value") else a.name for a in argument.arguments)
    outputs = tuple((output.name, _tensor_type(output.type)) for output in proto.outputs)
    return Operation(proto.type, name, inputs, outputs)


def _tensor_type(proto: Any) -> TensorType:
    from coremltools.proto.MIL_pb2 import DataType

    if not proto.HasField("tensorType"):
        raise _Unreadable(f"a value of {proto.WhichOneof('type')}, which is not a tensor")
    name = DataType.Name(proto.tensorType.dataType)
    dtype = _PROTO_NAMES.get(name, name.lower())
    if dtype not in FORMATS and dtype != "string":
        raise _Unreadable(f"a tensor of data type {dtype}")
    if any(d.HasField("unknown") and d.unknown.variadic for d in proto.tensorType.dimensions):
        raise _Unreadable("a tensor of variable rank")
    sizes = (d.constant.size if d.HasField("constant") else UNKNOWN for d in proto.tensorType.dimensions)
    return TensorType(dtype, tuple(sizes))


def _value(proto: Any) -> Value:
    kind = _tensor_type(proto.type)
    if proto.HasField("blobFileValue"):
        if kind.dtype not in FORMATS or UNKNOWN in kind.shape:
            raise _Unreadable(f"a weight of type {kind}")
        return Value(kind, file=proto.blobFileValue.fileName, offset=proto.blobFileValue.offset)
    tensor = proto.immediateValue.tensor
    store = tensor.WhichOneof("value")
    if store is None:
        raise _Unreadable(f"a constant {kind} without a value")
    held = getattr(tensor, store).values
    if kind.dtype == "string":
        if store != "strings" or len(held) != 1:
            raise _Unreadable("a string constant that is not one string")
        return Value(kind, held[0])
    raw = np.frombuffer(held, np.uint8) if store == "bytes" else None
    count = len(held) if raw is None else raw.size
    if count != (prod(kind.shape) if raw is None else _packed_bytes(kind)):
        raise _Unreadable(f"a constant {kind} with {count} elements or bytes")
    if raw is not None:
        return Value(kind, _unpack(raw, kind))
    return Value(kind, np.array(held, FORMATS[kind.dtype].holder).reshape(kind.shape))


def _packed_bytes(kind: TensorType) -> int:
    return -(-prod(kind.shape) * FORMATS[kind.dtype].bits // 8)


def _unpack(raw: Array, kind: TensorType) -> Array:
    """Elements of `raw` (uint8), lowest bits first; int4 is two's complement."""
    entry, count = FORMATS[kind.dtype], prod(kind.shape)
    if entry.bits >= 8:
        return raw.view(entry.holder).reshape(kind.shape)
    if entry.bits == 4:  # the common case, without a byte per bit
        elements = np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1)
    else:
        bits = np.unpackbits(raw, bitorder="little")[: count * entry.bits].reshape(count, entry.bits)
        elements = np.packbits(bits, axis=-1, bitorder="little").reshape(-1)
    elements = elements[:count].reshape(kind.shape)
    if kind.dtype == "int4":
        return (elements ^ 8).view(np.int8) - np.int8(8)
    return elements
