"""MIL operations that only move values: slices, gathers and shapes.

Owns which element goes where, and refuses indices that MIL leaves undefined (outside a dimension; negative for the
gathers of iOS 17 and later). Refuses to know about dtypes and rounding: values keep the type in which
they arrive.

Follows the documentation of coremltools' `mil/ops/defs/iOS15|16|17|18/tensor_transformation.py`,
`tensor_operation.py` and `scatter_gather.py`. Parameters carry MIL's names.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Array = np.ndarray


def ints(values: Iterable[int]) -> list[int]:
    return [int(value) for value in values]


# ---- slices


def slice_by_index(
    x: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    """x[begin:end:stride] as numpy reads it; a squeezed dimension is indexed at `begin`."""
    return x[_slices(x.ndim, begin, end, stride, begin_mask, end_mask, squeeze_mask)]


def slice_update(
    x: Array,
    update: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    """A copy of x in which the slice is `update`; the shapes have to match without broadcasting."""
    return slice_write(x.copy(), update, begin, end, stride, begin_mask, end_mask, squeeze_mask)


def slice_write(
    x: Array,
    update: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    """`slice_update` into x itself, for the evaluator where nothing else needs the old x."""
    where = _slices(x.ndim, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    if x[where].shape != update.shape:
        raise ValueError(f"an update {update.shape} for a slice {x[where].shape} of {x.shape}")
    x[where] = update
    return x


def _slices(
    rank: int,
    begin: Array,
    end: Array,
    stride: Array | None,
    begin_mask: Array | None,
    end_mask: Array | None,
    squeeze_mask: Array | None,
) -> tuple[slice | int, ...]:
    strides = [1] * rank if stride is None else ints(stride)
    masks = [[False] * rank if m is None else m.tolist() for m in (begin_mask, end_mask, squeeze_mask)]
    columns = zip(ints(begin), ints(end), strides, *masks, strict=True)
    return tuple(
        b if squeezed else slice(None if open_begin else b, None if open_end else e, step)
        for b, e, step, open_begin, open_end, squeezed in columns
    )


# ---- gathers


def _inside(indices: Array, size: int) -> Array:
    """The indices, refused outside 0 … size-1: iOS 17 and later leave the rest undefined."""
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        raise ValueError(f"indices {indices.min()} … {indices.max()} into a dimension of {size}")
    return indices


def gather(
    x: Array,
    indices: Array,
    axis: Array | int = 0,
    batch_dims: Array | int = 0,
    validate_indices: Array | bool = False,
) -> Array:
    """Slices of x along `axis` at `indices` [*N]; the first `batch_dims` dimensions go in step."""
    axis, batch = int(axis) % x.ndim, int(batch_dims)
    _inside(indices, x.shape[axis])
    if not batch:
        return np.take(x, indices, axis)
    if x.shape[:batch] != indices.shape[:batch]:
        raise ValueError(f"batch dimensions {x.shape[:batch]} and {indices.shape[:batch]}")
    rows = [np.take(x[b], indices[b], axis - batch) for b in np.ndindex(*x.shape[:batch])]
    return np.stack(rows).reshape(*x.shape[:batch], *rows[0].shape)


# ---- shapes


def reshape(x: Array, shape: Array) -> Array:
    """-1 takes what remains; 0 keeps x's dimension at the same place from the right, 1 where x has none (iOS 17)."""
    sizes = ints(shape)
    kept = [1] * (len(sizes) - x.ndim) + list(x.shape[max(0, x.ndim - len(sizes)) :])
    return x.reshape([kept[i] if size == 0 else size for i, size in enumerate(sizes)])


def transpose(x: Array, perm: Array) -> Array:
    return np.transpose(x, ints(perm))


def concat(values: list[Array], axis: Array, interleave: Array | bool = False) -> Array:
    """Side by side along `axis`, or element by element where interleaved; scalars count as one element."""
    parts = [np.atleast_1d(value) for value in values]
    if not interleave:
        return np.concatenate(parts, int(axis))
    joined = np.stack(parts, int(axis) % parts[0].ndim + 1)
    shape = list(parts[0].shape)
    shape[int(axis)] *= len(parts)
    return joined.reshape(shape)


def split(
    x: Array, axis: Array, num_splits: Array | None = None, split_sizes: Array | None = None
) -> tuple[Array, ...]:
    if split_sizes is not None:
        sizes = ints(split_sizes)
    elif num_splits is not None and x.shape[int(axis)] % int(num_splits) == 0:
        sizes = [x.shape[int(axis)] // int(num_splits)] * int(num_splits)
    else:
        raise ValueError(f"a split of {x.shape} along {int(axis)} into {num_splits} equal parts")
    if sum(sizes) != x.shape[int(axis)]:
        raise ValueError(f"parts {sizes} of {x.shape} along {int(axis)}")
    return tuple(np.split(x, np.cumsum(sizes)[:-1], int(axis)))


def tile(x: Array, reps: Array) -> Array:
    if len(reps) != x.ndim:
        raise ValueError(f"{len(reps)} repetitions for rank {x.ndim}")
    return np.tile(x, ints(reps))


def select(cond: Array, a: Array, b: Array) -> Array:
    return np.where(cond, a, b)


def cast(x: Array, dtype: str) -> Array:
    """Floats to integers drop the fraction; to bool, all but zero is true. The evaluator checks the range."""
    if dtype == "bool":
        return x != 0
    if dtype in ("fp16", "fp32"):
        return x if x.dtype.kind == "f" else x.astype(np.float32)
    return np.trunc(x).astype(np.int64) if x.dtype.kind == "f" else x.astype(np.int64)


def identity(x: Array) -> Array:
    return x
