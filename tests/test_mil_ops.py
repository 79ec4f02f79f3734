"""Every MIL operation against values written by hand, and against coremltools' own value inference where it has one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from edgesink.mil.ops import OPS


@dataclass(frozen=True)
class Case:
    kind: str
    inputs: dict[str, Any]
    expected: Any  # an array, or a tuple of arrays
    id: str = field(default="")


def f(*values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def i(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


def b(*values: Any) -> np.ndarray:
    return np.array(values, np.bool_)


def scalar(value: float) -> np.int32 | np.float32:
    return np.int32(value) if isinstance(value, int) else np.float32(value)


X = f([1, 2, 3], [4, 5, 6])
K4 = f([1, 0], [0, 1], [1, 1])  # three keys of two dimensions

CASES = [
    Case("add", dict(x=f(1, 2), y=f(10, -3)), f(11, -1)),
    Case("add", dict(x=i([1], [2]), y=i(10, 20)), i([11, 21], [12, 22]), "integers broadcast"),
    Case("sub", dict(x=f(1, 2), y=f(10, -3)), f(-9, 5)),
    Case("mul", dict(x=f(1, 2), y=f(10, -3)), f(10, -6)),
    Case("real_div", dict(x=f(1, 2), y=f(4, -8)), f(0.25, -0.25)),
    Case("maximum", dict(x=f(1, 5), y=f(3, 2)), f(3, 5)),
    Case("minimum", dict(x=f(1, 5), y=f(3, 2)), f(1, 2)),
    Case("equal", dict(x=i(1, 2), y=i(1, 3)), b(True, False)),
    Case("greater", dict(x=i(1, 4, 3), y=i(1, 3, 5)), b(False, True, False)),
    Case("greater_equal", dict(x=i(1, 4, 3), y=i(1, 3, 5)), b(True, True, False)),
    Case("less", dict(x=i(1, 4, 3), y=i(1, 3, 5)), b(False, False, True)),
    Case("less_equal", dict(x=i(1, 4, 3), y=i(1, 3, 5)), b(True, False, True)),
    Case("logical_and", dict(x=b(True, True, False), y=b(True, False, False)), b(True, False, False)),
    Case("logical_or", dict(x=b(True, True, False), y=b(True, False, False)), b(True, True, False)),
    Case("abs", dict(x=f(-2, 3)), f(2, 3)),
    Case("square", dict(x=f(-2, 3)), f(4, 9)),
    Case("rsqrt", dict(x=f(4, 0.25)), f(0.5, 2)),
    Case("rsqrt", dict(x=f(3), epsilon=scalar(1.0)), f(0.5), "epsilon"),
    Case("sin", dict(x=f(0, math.pi / 2)), f(0, 1)),
    Case("cos", dict(x=f(0, math.pi)), f(1, -1)),
    Case("tanh", dict(x=f(0, 1)), f(0, 0.76159416)),
    Case("erf", dict(x=f(0, 1)), f(0, 0.8427008)),
    Case("sigmoid", dict(x=f(0, 2)), f(0.5, 0.8807971)),
    Case("silu", dict(x=f(0, 2, -200)), f(0, 1.7615942, 0)),
    Case("gelu", dict(x=f(1, -1)), f(0.8413447, -0.1586553), "exact"),
    Case("gelu", dict(x=f(1), mode="TANH_APPROXIMATION"), f(0.841192), "tanh"),
    Case("gelu", dict(x=f(1), mode="SIGMOID_APPROXIMATION"), f(0.8457958), "sigmoid"),
    Case("clip", dict(x=f(-5, 0.5, 5), alpha=scalar(-1.0), beta=scalar(1.0)), f(-1, 0.5, 1)),
    Case("reduce_sum", dict(x=X, axes=i(-1), keep_dims=True), f([6], [15])),
    Case("reduce_sum", dict(x=X), np.float32(21), "all axes"),
    Case("reduce_mean", dict(x=X, axes=i(0)), f(2.5, 3.5, 4.5)),
    Case("reduce_max", dict(x=X, axes=i(1)), f(3, 6)),
    Case("linear", dict(x=f([1, 2]), weight=f([1, 0], [0, 1], [1, 1]), bias=f(0, 0, 10)), f([1, 2, 13])),
    Case("matmul", dict(x=f([1, 2]), y=f([3], [4])), f([11])),
    Case("matmul", dict(x=f([1], [2]), y=f([3, 4]), transpose_x=True, transpose_y=True), f([11])),
    Case("softmax", dict(x=f([0, 0], [0, math.log(3)])), f([0.5, 0.5], [0.25, 0.75])),
    Case("softmax", dict(x=f([0], [math.log(3)]), axis=scalar(0)), f([0.25], [0.75]), "axis 0"),
    Case("slice_by_index", dict(x=X, begin=i(0, 1), end=i(2, 3)), f([2, 3], [5, 6])),
    Case("slice_by_index", dict(x=X, begin=i(0, -2), end=i(1, -1)), f([2]).reshape(1, 1), "negative"),
    Case("slice_by_index", dict(x=X, begin=i(0, 0), end=i(2, 3), stride=i(1, 2)), f([1, 3], [4, 6]), "stride"),
    Case(
        "slice_by_index",
        dict(x=X, begin=i(1, 1), end=i(0, 2), begin_mask=b(True, False),
             end_mask=b(False, True), squeeze_mask=b(False, False)),
        np.zeros((0, 2), np.float32),
        "begin masked",
    ),
    Case(
        "slice_by_index",
        dict(x=X, begin=i(1, 1), end=i(9, 9), begin_mask=b(False, True),
             end_mask=b(True, True), squeeze_mask=b(True, False)),
        f(4, 5, 6),
        "squeezed",
    ),
    Case("slice_update", dict(x=X, update=f([20], [50]), begin=i(0, 1), end=i(2, 2)), f([1, 20, 3], [4, 50, 6])),
    Case(
        "slice_update",
        dict(x=X, update=f(40, 60), begin=i(1, 0), end=i(0, 3), stride=i(1, 2), squeeze_mask=b(True, False)),
        f([1, 2, 3], [40, 5, 60]),
        "squeezed and strided",
    ),
    Case("gather", dict(x=X, indices=i(2, 0), axis=scalar(1)), f([3, 1], [6, 4])),
    Case("gather", dict(x=X, indices=scalar(1), axis=scalar(0)), f(4, 5, 6), "scalar"),
    Case("gather", dict(x=X, indices=i([2], [0]), axis=scalar(1), batch_dims=scalar(1)), f([3], [4]), "batch"),
    Case("reshape", dict(x=X, shape=i(3, -1)), f([1, 2], [3, 4], [5, 6])),
    Case("reshape", dict(x=X, shape=i(1, 0, -1, 0)), X.reshape(1, 1, 2, 3), "zeros count from the right"),
    Case("transpose", dict(x=X, perm=i(-1, 0)), f([1, 4], [2, 5], [3, 6])),
    Case("concat", dict(values=[X, 10 * X[:1]], axis=scalar(0)), f([1, 2, 3], [4, 5, 6], [10, 20, 30])),
    Case(
        "concat",
        dict(values=[X, 10 * X], axis=scalar(0), interleave=True),
        f([1, 2, 3], [10, 20, 30], [4, 5, 6], [40, 50, 60]),
        "interleaved",
    ),
    Case("split", dict(x=X, axis=scalar(1), num_splits=scalar(3)), (f([1], [4]), f([2], [5]), f([3], [6])), "even"),
    Case("split", dict(x=X, axis=scalar(1), split_sizes=i(1, 2)), (f([1], [4]), f([2, 3], [5, 6])), "sizes"),
    Case("tile", dict(x=X[:1], reps=i(2, 1)), f([1, 2, 3], [1, 2, 3])),
    Case("select", dict(cond=b([True], [False]), a=X, b=-X), f([1, 2, 3], [-4, -5, -6])),
    Case("cast", dict(x=f(1.9, -1.9), dtype="int32"), i(1, -1), "truncates"),
    Case("cast", dict(x=f(0.5, 0), dtype="bool"), b(True, False), "to bool"),
    Case("cast", dict(x=b(True, False), dtype="fp32"), f(1, 0), "from bool"),
    Case("identity", dict(x=X), X),
    Case("const", dict(val=X), X),
    Case(
        "constexpr_blockwise_shift_scale",
        dict(data=np.array([[1, -2, 3, -4], [5, -6, 7, -8]], np.int8), scale=f([1, 10], [2, 0.5])),
        f([1, -2, 30, -40], [10, -12, 3.5, -4]),
        "blocks of two",
    ),
    Case(
        "constexpr_blockwise_shift_scale",
        dict(data=np.array([[1, 2], [3, 4]], np.uint8), scale=f([10, 100]), offset=f([0.5, 1])),
        f([5, 100], [25, 300]),
        "offset of floats, per column",
    ),
    Case(
        "constexpr_blockwise_shift_scale",
        dict(data=np.array([[7, 9]], np.uint8), scale=f([2, 3]), offset=np.array([[8, 8]], np.uint8)),
        f([-2, 3]),
        "offset of integers does not wrap",
    ),
    Case(
        "constexpr_lut_to_dense",
        # two tables along the rows: the documentation's case 1
        dict(indices=np.array([[2, 3], [3, 0], [1, 0], [3, 0], [2, 1], [0, 3]], np.uint8),
             lut=f(1, 5, 9, 13, 2, 10, 18, 26).reshape(2, 1, 4, 1)),
        f([9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]),
        "two tables",
    ),
    Case(
        "constexpr_lut_to_dense",
        # the documentation's case 2.1
        dict(indices=np.array([[[0, 0], [1, 0]], [[1, 1], [0, 0]]], np.uint8),
             lut=f(1, 2, 3, 10, 20, 30).reshape(1, 1, 1, 2, 3), vector_axis=scalar(1)),
        f([[1, 1], [2, 2], [3, 3], [10, 1], [20, 2], [30, 3]], [[10, 10], [20, 20], [30, 30], [1, 1], [2, 2], [3, 3]]),
        "vectors",
    ),
]  # fmt: skip


def name(case: Case) -> str:
    return f"{case.kind} {case.id}".strip()


def parts(result: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(part) for part in (result if isinstance(result, tuple) else (result,)))


def assert_same(found: Any, expected: Any) -> None:
    for left, right in zip(parts(found), parts(expected), strict=True):
        assert left.shape == right.shape
        assert {left.dtype.kind, right.dtype.kind} in ({"f"}, {"b"}, {"i"}, {"u"}, {"i", "u"})
        np.testing.assert_allclose(left, right, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_an_operation_gives_the_value_written_by_hand(case: Case) -> None:
    with np.errstate(over="ignore"):  # as the evaluator does
        found = OPS[case.kind].compute(**case.inputs)
    assert_same(found, case.expected)


def test_every_known_operation_has_a_value_written_by_hand() -> None:
    assert {case.kind for case in CASES} == set(OPS)


# coremltools infers no value for silu, and contradicts its own documentation of concat: it ignores `interleave`.
UNINFERRED = {"silu", "concat interleaved"}
INFERRED = [case for case in CASES if not {case.kind, name(case)} & UNINFERRED]


@pytest.mark.parametrize("case", INFERRED, ids=name)
def test_an_operation_agrees_with_the_value_that_coremltools_infers(case: Case) -> None:
    ct = pytest.importorskip("coremltools")
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import Function

    with Function({}, opset_version=ct.target.iOS18):
        built = getattr(mb, case.kind)(**packed(case))
    variables = list(built) if isinstance(built, (list, tuple)) else [built]
    decoded = case.kind.startswith("constexpr")
    inferred = [variable.op.materialized_val_inference() if decoded else variable.val for variable in variables]
    assert all(value is not None for value in inferred)
    assert_same(OPS[case.kind].compute(**case.inputs), tuple(inferred))


def packed(case: Case) -> dict[str, Any]:
    """The inputs with sub-byte elements marked as coremltools marks them."""
    from coremltools.converters.mil.mil import types

    marks = {2: types.np_uint1_dtype, 4: types.np_uint2_dtype}
    if case.kind == "constexpr_lut_to_dense":
        return {**case.inputs, "indices": case.inputs["indices"].view(marks[case.inputs["lut"].shape[-2]])}
    return case.inputs


@pytest.mark.parametrize(
    ("kind", "inputs", "complaint"),
    [
        ("gather", dict(x=X, indices=i(2), axis=scalar(0)), "indices 2 … 2 into a dimension of 2"),
        ("gather", dict(x=X, indices=i(-1), axis=scalar(0)), "indices -1"),  # undefined since iOS 17
        (
            "slice_update",
            dict(x=X, update=f([1]), begin=i(0, 0), end=i(2, 1)),
            "an update",
        ),  # would broadcast
        ("split", dict(x=X, axis=scalar(1), num_splits=scalar(2)), "a split"),
        ("split", dict(x=X, axis=scalar(1), split_sizes=i(1, 1)), "parts"),
        ("linear", dict(x=X[None, None], weight=X), "rank 4"),
        ("gelu", dict(x=X, mode="QUICK"), "mode"),
        ("constexpr_blockwise_shift_scale", dict(data=X, scale=f([1, 1])), "do not divide"),
    ],
)
def test_what_mil_leaves_undefined_is_refused(kind: str, inputs: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        OPS[kind].compute(**inputs)
