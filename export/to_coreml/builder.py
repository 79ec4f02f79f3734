"""A MIL program under construction: values with operators, weights held in mapped files, the package they become.

Owns the spelling of MIL through coremltools' builder, and the saving of a program of several functions that share
their weights. Knows nothing of decoders. No pass of the converter touches the program: what is built is what is
saved. The writer that is called is internal to coremltools, which is therefore pinned.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgesink.export.blocks import Blocks
from edgesink.export.halves import Halves
from edgesink.export.palettize import Palette
from edgesink.quiet import quiet_coremltools

with quiet_coremltools():  # the exporter of this format is imported when it is asked for
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.backend.mil.load import load as as_model
    from coremltools.converters.mil.mil import Function, Placeholder, Program, types
    from coremltools.converters.mil.mil.program import StateTensorPlaceholder
    from coremltools.models.utils import _create_mlpackage

__all__ = [
    "Program",
    "Value",
    "WeightStore",
    "concatenate",
    "constant",
    "function",
    "int32",
    "mb",
    "ranked",
    "reshape",
    "save_program",
    "split",
]

TARGET = ct.target.iOS18  # and macOS 15: the first with states, int4 and several functions
FARTHEST_ZERO = 2048  # float16 is whole numbers up to here
MAPPED_BYTES = 1 << 16  # smaller arrays stay in memory

Operand = Any
"""A `Value`, or a number, which becomes a constant of the other operand's type."""

_MIL_TYPES = {"float16": types.fp16, "int32": types.int32, "bool": types.bool}


@dataclass(frozen=True)
class Value:
    """A tensor of the function that is being built. Operators add operations and broadcast as numpy does."""

    var: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.var.shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(types.nptype_from_builtin(self.var.dtype))

    def __add__(self, other: Operand) -> Value:
        return _binary(mb.add, self, other)

    def __sub__(self, other: Operand) -> Value:
        return _binary(mb.sub, self, other)

    def __rsub__(self, other: Operand) -> Value:
        return _binary(mb.sub, constant(np.array([other], self.dtype)), self)

    def __mul__(self, other: Operand) -> Value:
        return _binary(mb.mul, self, other)

    def __truediv__(self, other: Operand) -> Value:
        return _binary(mb.real_div, self, other)

    def __lt__(self, other: Operand) -> Value:
        return _binary(mb.less, self, other)

    def __le__(self, other: Operand) -> Value:
        return _binary(mb.less_equal, self, other)

    def __gt__(self, other: Operand) -> Value:
        return _binary(mb.greater, self, other)

    def __ge__(self, other: Operand) -> Value:
        return _binary(mb.greater_equal, self, other)

    def __and__(self, other: Value) -> Value:
        return _binary(mb.logical_and, self, other)

    def __or__(self, other: Value) -> Value:
        return _binary(mb.logical_or, self, other)

    def equals(self, other: Value) -> Value:
        """Elementwise; `==` compares the objects."""
        return _binary(mb.equal, self, other)


def _binary(op: Any, a: Value, b: Operand) -> Value:
    b = b if isinstance(b, Value) else constant(np.array([b], a.dtype))
    rank = max(len(a.shape), len(b.shape))
    return Value(op(x=ranked(a, rank).var, y=ranked(b, rank).var))


def constant(array: np.ndarray) -> Value:
    """A small constant; integers as int32, floats as float16."""
    kinds: dict[str, type] = {"i": np.int32, "f": np.float16}
    return Value(mb.const(val=np.asarray(array, kinds.get(array.dtype.kind, array.dtype.type))))


def int32(numbers: list[int]) -> np.ndarray:
    """Shapes and bounds as operations take them."""
    return np.array(numbers, np.int32)


def reshape(x: Value, *shape: int) -> Value:
    return x if x.shape == shape else Value(mb.reshape(x=x.var, shape=int32(list(shape))))


def ranked(x: Value, rank: int) -> Value:
    """x with axes of length 1 in front; compilers are surer of operands of one rank."""
    return reshape(x, *[1] * (rank - len(x.shape)), *x.shape)


def concatenate(values: list[Value], axis: int) -> Value:
    return values[0] if len(values) == 1 else Value(mb.concat(values=[value.var for value in values], axis=axis))


def split(x: Value, pieces: int, axis: int) -> tuple[Value, ...]:
    return tuple(Value(var) for var in mb.split(x=x.var, num_splits=pieces, axis=axis))


@dataclass(frozen=True)
class Part:
    """One of the arrays that MIL holds a weight in."""

    array: np.ndarray
    kind: str = ""  # "int4", "uint4" or "uint6": its values, one a byte; else they are of the array's own type

    def marked(self) -> np.ndarray:
        """The array with coremltools' mark of types below a byte, which only a view carries."""
        marks = {"int4": types.np_int4_dtype, "uint4": types.np_uint4_dtype, "uint6": types.np_uint6_dtype}
        return self.array.view(marks.get(self.kind, self.array.dtype))


class WeightStore:
    """The weights as the package will hold them, each asked for once and kept in a mapped file of `folder`.

    The builder keeps every constant until the program is saved; mapped, they are the page cache's and not ours, and
    memory follows the largest tensor.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, dict[str, Part]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def keep(self, name: str, weight: np.ndarray | Blocks | Halves | Palette) -> None:
        """Hold a weight under `name`."""
        parts = held_parts(weight).items()
        self._held[name] = {key: Part(self._mapped(f"{name}.{key}", part.array), part.kind) for key, part in parts}

    def value(self, name: str) -> Value:
        """The weight as a value, float16, in the function being built; every function means the same bytes."""
        arrays = {key: part.marked() for key, part in self._held[name].items()}
        if "value" in arrays:
            var = mb.const(val=arrays["value"], name=name)
            var.op.weight_id = name
            return Value(var)
        op = mb.constexpr_lut_to_dense if "lut" in arrays else mb.constexpr_blockwise_shift_scale
        var = op(**arrays, name=name)
        for key in arrays:
            var.op.inputs[key].op.weight_id = f"{name}.{key}"
        return Value(var)

    def keep_apart(self, name: str, array: np.ndarray) -> str:
        """Hold an array under `name`, or where that is another array's, under `name` and a number: where it is held."""
        half = array.astype(np.float16)
        names = itertools.chain([name], (f"{name}.{number}" for number in itertools.count(1)))
        held = next(n for n in names if n not in self or np.array_equal(self._held[n]["value"].array, half))
        if held not in self:
            self.keep(held, half)
        return held

    def zeros(self, count: int) -> str:
        """Where float16 zeros [count] are held: once, where `linear` would store its own for every call."""
        return self.keep_apart(f"zeros.{count}", np.zeros(count, np.float16))

    def _mapped(self, name: str, array: np.ndarray) -> np.ndarray:
        array = np.ascontiguousarray(array)
        if array.nbytes < MAPPED_BYTES:
            return array
        path = self._folder / f"{name}.npy"
        np.save(path, array)
        mapped: np.ndarray = np.load(path, mmap_mode="r")
        return mapped


def held_parts(weight: np.ndarray | Blocks | Halves | Palette) -> dict[str, Part]:
    """The arrays that MIL holds a weight in, by the names of the inputs of the operation that unpacks it."""
    if isinstance(weight, np.ndarray):
        return {"value": Part(weight.astype(np.float16))}
    if isinstance(weight, Halves):
        return {"value": Part(weight.as_float16())}
    unsigned = f"uint{weight.bits}"
    if isinstance(weight, Palette):
        lut = weight.table.astype(np.float16)[:, None, :, None]  # [N / group, 1, 2 ** bits, 1]
        return {"indices": Part(weight.codes, unsigned), "lut": Part(lut)}
    if weight.bits == 4 and not weight.is_table:
        return _four_bits(weight)
    return _bytes(weight)


def _four_bits(weight: Blocks) -> dict[str, Part]:
    """int4 where codes count from the middle; else uint4 with zero points, whole ones in 4 bits too."""
    if weight.offset is None:
        codes = weight.values().astype(np.int8)
        return {"data": Part(codes, "int4"), "scale": Part(weight.scales().astype(np.float16))}
    codes, scale, zero = _with_zeros(weight)
    whole = np.rint(zero)
    is_whole = ((whole >= 0) & (whole < 16) & ((-scale * whole).astype(np.float16) == weight.offsets())).all()
    offset = Part(whole.astype(np.uint8), "uint4") if is_whole else Part(zero.astype(np.float16))
    return {"data": Part(codes, "uint4"), "scale": Part(scale.astype(np.float16)), "offset": offset}


def _bytes(weight: Blocks) -> dict[str, Part]:
    """Codes of more than 4 bits, and the values of a table, a byte each."""
    if weight.offset is None:
        codes = weight.values().astype(np.int8)
        return {"data": Part(codes), "scale": Part(weight.scales().astype(np.float16))}
    codes, scale, zero = _with_zeros(weight)
    return {"data": Part(codes), "scale": Part(scale.astype(np.float16)), "offset": Part(zero.astype(np.float16))}


def _with_zeros(weight: Blocks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrix as scale * (code - zero): codes [N, K], scale and zero float32 [N, K / 32].

    A block of nearly equal values has a zero point so far off that float16 loses the codes beside it. It is held as 32
    times their mean, off by 1 part in 270 at most.
    """
    scale, offset = weight.scales(), weight.offsets()
    assert offset is not None
    far = np.abs(offset) > FARTHEST_ZERO * np.abs(scale)
    zero = np.divide(-offset, scale, out=np.zeros_like(scale), where=~far & (scale != 0))
    if not far.any():
        return weight.codes, scale, zero
    blocks = weight.codes.reshape(*far.shape, -1)
    mean = scale * blocks.mean(-1, dtype=np.float32) + offset
    codes = np.where(far[..., None], np.uint8(1), blocks).reshape(weight.codes.shape)
    return codes, np.where(far, mean, scale), zero


@contextmanager
def function(
    program: Program,
    name: str,
    inputs: Mapping[str, tuple[tuple[int, ...], str]],
    states: Mapping[str, tuple[int, ...]],
) -> Any:
    """Build a function of `program` in the body.

    Args:
        inputs: name -> shape and numpy type name.
        states: name -> shape of the float16 states.
    Yields:
        The inputs as values by name, the states among them; a list to put the outputs in.
    """
    placeholders: dict[str, Any] = {
        input_: Placeholder(sym_shape=shape, dtype=_MIL_TYPES[dtype], name=input_)
        for input_, (shape, dtype) in inputs.items()
    }
    for state, shape in states.items():
        placeholders[state] = StateTensorPlaceholder(sym_shape=shape, dtype=types.fp16, name=state)
    outputs: list[Value] = []
    with Function(placeholders, opset_version=TARGET) as made:
        yield {input_: Value(var) for input_, var in made.inputs.items()}, outputs
        made.set_outputs([value.var for value in outputs])
    program.add_function(name, made)


def save_program(program: Program, default: str, package: Path, scratch: Path, describe: Callable[[Any], None]) -> None:
    """Write `program` as a package whose default function is `default`.

    `describe` fills in the model's description, a protobuf. The weights are written in `scratch`, on the same disk.
    """
    program.default_function_name = default
    program.export_as_multifunction = True
    program.validate()
    weights = scratch / "weights"
    weights.mkdir()
    model = as_model(program, weights_dir=str(weights), specification_version=TARGET)
    describe(model.description)
    written = [path.rename(scratch / path.name) for path in sorted(weights.iterdir())]
    _create_mlpackage(model, str(weights), str(package))  # an empty folder: the library would copy what is in it
    for path in written:
        path.rename(package / "Data" / "com.apple.CoreML" / weights.name / path.name)
