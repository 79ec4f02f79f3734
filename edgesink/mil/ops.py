"""The meaning of every MIL operation that we evaluate: the table `OPS`, and the elementwise and reducing ones.

Owns the table, and what each entry promises about data types. Refuses to know about precision, states and order of
execution (`evaluator`). An operation that is not in the table is not evaluated: nothing is guessed. The table holds
what the exporter emits, and `COMING`.

Follows the documentation (docstrings) of coremltools' `mil/ops/defs/**`, opsets iOS 15 to iOS 18, and none of their
code. A function gets what MIL calls the operation's parameters under MIL's names: arrays, scalars as arrays of
rank 0, strings as str, variadic ones as lists. `read_state` and `write_state` are the evaluator's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgesink.mil import constants, contraction, movement
from edgesink.mil.movement import ints

Array = np.ndarray


@dataclass(frozen=True)
class Op:
    """One operation's arithmetic and the data types that it takes and gives."""

    compute: Callable[..., Any]  # arrays in, one array or a tuple of them out
    alike: tuple[str, ...] = ("x",)  # parameters that must have one declared dtype
    gives: str = ""  # the result's dtype: "" as `alike`, "any" as declared, else its name
    moves: bool = False  # no arithmetic: takes values in the dtype they are stored in
    views: bool = False  # the result may share memory with an input


def _arithmetic(compute: Callable[..., Any], *alike: str, gives: str = "") -> Op:
    return Op(compute, alike or ("x",), gives)


def _move(compute: Callable[..., Any], *alike: str, gives: str = "") -> Op:
    return Op(compute, alike or ("x",), gives, moves=True)


def _view(compute: Callable[..., Any], gives: str = "") -> Op:
    return Op(compute, ("x",), gives, moves=True, views=True)


# ---- elementwise


def _binary(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def compute(x: Array, y: Array) -> Array:
        return function(x, y)

    return compute


def _unary(function: Callable[[Array], Array]) -> Callable[..., Array]:
    def compute(x: Array) -> Array:
        return function(x)

    return compute


_erf = np.frompyfunc(math.erf, 1, 1)


def _erf32(x: Array) -> Array:
    return np.asarray(_erf(x), np.float32)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "real_div": np.true_divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
COMPARISON: dict[str, Callable[[Array, Array], Array]] = {
    "equal": np.equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
}
UNARY: dict[str, Callable[[Array], Array]] = {
    "abs": np.abs,
    "cos": np.cos,
    "erf": _erf32,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "sin": np.sin,
    "square": np.square,
    "tanh": np.tanh,
}


def _rsqrt(x: Array, epsilon: Array | float = 1e-12) -> Array:
    return 1 / np.sqrt(x + np.float32(epsilon))


def _clip(x: Array, alpha: Array, beta: Array) -> Array:
    return np.minimum(np.maximum(x, alpha), beta)


def _gelu(x: Array, mode: str = "EXACT") -> Array:
    if mode == "EXACT":
        return np.float32(0.5) * x * (1 + _erf32(x / np.sqrt(np.float32(2))))
    if mode == "TANH_APPROXIMATION":
        return np.float32(0.5) * x * (1 + np.tanh(np.sqrt(np.float32(2 / np.pi)) * (x + np.float32(0.044715) * x**3)))
    if mode == "SIGMOID_APPROXIMATION":
        return x * _sigmoid(np.float32(1.702) * x)
    raise ValueError(f"a gelu mode {mode!r}")


# ---- reductions


def _reduction(function: Callable[..., Array]) -> Callable[..., Array]:
    def compute(x: Array, axes: Array | None = None, keep_dims: Array | bool = False) -> Array:
        over = None if axes is None else tuple(ints(axes))
        return function(x, axis=over, keepdims=bool(keep_dims))

    return compute


REDUCTION: dict[str, Callable[..., Array]] = {
    "reduce_sum": np.sum,
    "reduce_mean": np.mean,
    "reduce_max": np.max,
}


# ---- the table

OPS: dict[str, Op] = {
    **{kind: _arithmetic(_binary(function), "x", "y") for kind, function in BINARY.items()},
    **{kind: _arithmetic(_binary(function), "x", "y", gives="bool") for kind, function in COMPARISON.items()},
    **{kind: _arithmetic(_unary(function)) for kind, function in UNARY.items()},
    **{kind: _arithmetic(_reduction(function)) for kind, function in REDUCTION.items()},
    "rsqrt": _arithmetic(_rsqrt),
    "clip": _arithmetic(_clip, "x", "alpha", "beta"),
    "gelu": _arithmetic(_gelu),
    # sums of products
    "linear": _arithmetic(contraction.linear),
    "matmul": _arithmetic(contraction.matmul),
    "softmax": _arithmetic(contraction.softmax),
    # slices and gathers
    "slice_by_index": _view(movement.slice_by_index),
    "slice_update": _move(movement.slice_update, "x", "update"),
    "gather": _move(movement.gather),
    # shapes
    "reshape": _view(movement.reshape),
    "transpose": _view(movement.transpose),
    "split": _view(movement.split),
    "identity": _view(movement.identity),
    "cast": _view(movement.cast, gives="any"),
    "concat": _move(movement.concat, "values"),
    "tile": _move(movement.tile),
    "select": _move(movement.select, "a", "b"),
    # constants
    "const": _move(lambda val: val, "val"),
    "constexpr_blockwise_shift_scale": _move(constants.blockwise_shift_scale, "scale"),
    "constexpr_lut_to_dense": _move(constants.lut_to_dense, "lut"),
}

COMING: dict[str, str] = {
    "erf": "gelu written out",
    "sigmoid": "SiLU and other gates written out",
    "square": "a mean of squares, in norms over other axes than RMSNorm's",
    "cos": "phases computed in the program, where a table of them would be large",
    "sin": "as cos",
}
"""Kinds that the exporter does not emit yet, and the model families that want them."""

# Destructive forms, for the evaluator where it has proved that nothing else needs the old value of `x`.
IN_PLACE: dict[str, Callable[..., Array]] = {"slice_update": movement.slice_write}
