"""The meaning of every MIL operation that we evaluate: the table `OPS`, and the elementwise and reducing ones.

Owns the table, and what each entry promises about data types. Refuses to know about precision, states and order of
execution (`mil_evaluator`). An operation that is not in the table is not evaluated: nothing is guessed.

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


def _divisor(y: Array) -> Array:
    """y, refused where an integer divisor is zero: numpy would quietly give zero."""
    if y.dtype.kind != "f" and not np.all(y):
        raise ValueError("an integer division by zero")
    return y


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
    "floor_div": lambda x, y: np.floor_divide(x, _divisor(y)),  # towards minus infinity
    "mod": lambda x, y: np.mod(x, _divisor(y)),  # has the divisor's sign
    "maximum": np.maximum,
    "minimum": np.minimum,
    "pow": np.power,
}
COMPARISON: dict[str, Callable[[Array, Array], Array]] = {
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}
UNARY: dict[str, Callable[[Array], Array]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "cos": np.cos,
    "erf": _erf32,
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "relu": lambda x: np.maximum(x, 0),
    "round": np.round,  # a half goes to the even neighbour
    "sigmoid": _sigmoid,
    "sign": np.sign,
    "silu": lambda x: x * _sigmoid(x),
    "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square,
    "tanh": np.tanh,
}


def _rsqrt(x: Array, epsilon: Array | float = 1e-12) -> Array:
    return 1 / np.sqrt(x + np.float32(epsilon))


def _inverse(x: Array, epsilon: Array | float = 1e-4) -> Array:
    return 1 / (x + np.float32(epsilon))


def _log(x: Array, epsilon: Array | float = 1e-45) -> Array:
    return np.log(x + np.float32(epsilon))


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


# ---- reductions and orders


def _reduction(function: Callable[..., Array]) -> Callable[..., Array]:
    def compute(x: Array, axes: Array | None = None, keep_dims: Array | bool = False) -> Array:
        over = None if axes is None else tuple(ints(axes))
        return function(x, axis=over, keepdims=bool(keep_dims))

    return compute


REDUCTION: dict[str, Callable[..., Array]] = {
    "reduce_sum": np.sum,
    "reduce_mean": np.mean,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_sum_square": lambda x, **over: np.sum(np.square(x), **over),
    "reduce_l2_norm": lambda x, **over: np.sqrt(np.sum(np.square(x), **over)),
}


def _argmax(x: Array, axis: Array | int = -1, keep_dims: Array | bool = False, output_dtype: str = "int32") -> Array:
    """The first of equal maxima; MIL leaves open which."""
    return np.argmax(x, axis=int(axis), keepdims=bool(keep_dims))


def _topk(
    x: Array,
    k: Array | int = 1,
    axis: Array | int = -1,
    ascending: Array | bool = False,
    sort: Array | bool = True,
    return_indices: Array | bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Array, ...]:
    """The k largest (smallest where ascending) along `axis`, in order; of equal ones the first."""
    count = x.shape[int(axis)] if int(k) == -1 else int(k)
    order = np.argsort(x if ascending else -x, axis=int(axis), kind="stable")
    chosen = np.take(order, np.arange(count), axis=int(axis))
    values = np.take_along_axis(x, chosen, axis=int(axis))
    return (values, chosen) if return_indices else (values,)


def _cumsum(x: Array, axis: Array | int = 0, exclusive: Array | bool = False, reverse: Array | bool = False) -> Array:
    """Sums of the elements up to each one; exclusive leaves out the element itself."""
    rows = np.moveaxis(x, int(axis), 0)
    rows = rows[::-1] if reverse else rows
    sums = np.cumsum(rows, axis=0)
    if exclusive:
        sums = np.concatenate([np.zeros_like(sums[:1]), sums[:-1]])
    return np.moveaxis(sums[::-1] if reverse else sums, 0, int(axis))


def _range_1d(start: Array, end: Array, step: Array) -> Array:
    return np.arange(start[()], end[()], step[()])


# ---- the table

OPS: dict[str, Op] = {
    **{kind: _arithmetic(_binary(function), "x", "y") for kind, function in BINARY.items()},
    **{kind: _arithmetic(_binary(function), "x", "y", gives="bool") for kind, function in COMPARISON.items()},
    **{kind: _arithmetic(_unary(function)) for kind, function in UNARY.items()},
    **{kind: _arithmetic(_reduction(function)) for kind, function in REDUCTION.items()},
    "logical_not": _arithmetic(_unary(np.logical_not), gives="bool"),
    "rsqrt": _arithmetic(_rsqrt),
    "inverse": _arithmetic(_inverse),
    "log": _arithmetic(_log),
    "clip": _arithmetic(_clip, "x", "alpha", "beta"),
    "gelu": _arithmetic(_gelu),
    "reduce_argmax": _arithmetic(_argmax, gives="any"),
    "topk": _arithmetic(_topk, gives="any"),
    "cumsum": _arithmetic(_cumsum),
    "range_1d": _arithmetic(_range_1d, "start", "end", "step"),
    # sums of products
    "linear": _arithmetic(contraction.linear),
    "matmul": _arithmetic(contraction.matmul),
    "conv": _arithmetic(contraction.conv),
    "softmax": _arithmetic(contraction.softmax),
    "layer_norm": _arithmetic(contraction.layer_norm),
    "scaled_dot_product_attention": _arithmetic(contraction.scaled_dot_product_attention, "query", "key", "value"),
    # slices, gathers, scatters
    "slice_by_index": _view(movement.slice_by_index),
    "slice_by_size": _view(movement.slice_by_size),
    "slice_update": _move(movement.slice_update, "x", "update"),
    "gather": _move(movement.gather),
    "gather_along_axis": _move(movement.gather_along_axis),
    "gather_nd": _move(movement.gather_nd),
    "scatter": _arithmetic(movement.scatter, "data", "updates"),
    "scatter_along_axis": _arithmetic(movement.scatter_along_axis, "data", "updates"),
    "scatter_nd": _arithmetic(movement.scatter_nd, "data", "updates"),
    # shapes
    "reshape": _view(movement.reshape),
    "reshape_like": _view(movement.reshape_like),
    "transpose": _view(movement.transpose),
    "squeeze": _view(movement.squeeze),
    "expand_dims": _view(movement.expand_dims),
    "split": _view(movement.split),
    "identity": _view(movement.identity),
    "cast": _view(movement.cast, gives="any"),
    "concat": _move(movement.concat, "values"),
    "stack": _move(movement.stack, "values"),
    "tile": _move(movement.tile),
    "pad": _move(movement.pad),
    "band_part": _move(movement.band_part),
    "select": _move(movement.select, "a", "b"),
    "fill": _move(movement.fill, "value"),
    "one_hot": _move(movement.one_hot, "on_value", "off_value"),
    "shape": _move(movement.shape_of, gives="int32"),
    # constants
    "const": _move(lambda val: val, "val"),
    "constexpr_blockwise_shift_scale": _move(constants.blockwise_shift_scale, "scale"),
    "constexpr_affine_dequantize": _move(constants.affine_dequantize, "scale"),
    "constexpr_lut_to_dense": _move(constants.lut_to_dense, "lut"),
    "constexpr_sparse_to_dense": _move(constants.sparse_to_dense, "nonzero_data"),
    "constexpr_cast": _move(constants.constant_cast, gives="fp32"),
}

# Destructive forms, for the evaluator where it has proved that nothing else needs the old value of `x`.
IN_PLACE: dict[str, Callable[..., Array]] = {"slice_update": movement.slice_write}
