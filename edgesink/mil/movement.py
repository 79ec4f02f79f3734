"""MIL operations that only move values: slices, gathers, scatters and shapes.

Owns which element goes where, and refuses indices that MIL leaves undefined (outside a dimension; negative for the
gathers and scatters of iOS 17 and later). Refuses to know about dtypes and rounding: values keep the type in which
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


def slice_by_size(x: Array, begin: Array, size: Array) -> Array:
    """`size` elements from `begin` along each dimension; size -1 takes the rest."""
    starts = [b + n if b < 0 else b for b, n in zip(ints(begin), x.shape, strict=True)]
    ends = [n if s == -1 else b + s for b, s, n in zip(starts, ints(size), x.shape, strict=True)]
    if any(b < 0 or b > e or e > n for b, e, n in zip(starts, ends, x.shape, strict=True)):
        raise ValueError(f"a slice {starts} to {ends} of {x.shape}")
    return x[tuple(slice(b, e) for b, e in zip(starts, ends, strict=True))]


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


# ---- gathers and scatters


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


def gather_along_axis(x: Array, indices: Array, axis: Array | int = 0, validate_indices: Array | bool = False) -> Array:
    """out[…, i, …] = x[…, indices[…, i, …], …]."""
    return x[_along_axis(x, indices, int(axis))]


def gather_nd(x: Array, indices: Array, batch_dims: Array | int = 0, validate_indices: Array | bool = False) -> Array:
    """Slices of x at the index tuples in the last dimension of `indices`."""
    batch = int(batch_dims)
    if not batch:
        return np.array(x[_tuples(x, indices)])
    rows = [np.array(x[b][_tuples(x[b], indices[b])]) for b in np.ndindex(*x.shape[:batch])]
    return np.stack(rows).reshape(*x.shape[:batch], *rows[0].shape)


def scatter(
    data: Array,
    indices: Array,
    updates: Array,
    axis: Array | int = 0,
    mode: str = "add",
    validate_indices: Array | bool = False,
) -> Array:
    """Combines slices of `updates` into data along `axis` at `indices` [N]."""
    axis = int(axis) % data.ndim
    _inside(indices, data.shape[axis])
    return _scattered(data, (slice(None),) * axis + (indices,), updates, mode)


def scatter_along_axis(
    data: Array,
    indices: Array,
    updates: Array,
    axis: Array | int = 0,
    mode: str = "add",
    validate_indices: Array | bool = False,
) -> Array:
    """out[…, indices[…, i, …], …] combined with updates[…, i, …]."""
    return _scattered(data, _along_axis(data, indices, int(axis)), updates, mode)


def scatter_nd(
    data: Array, indices: Array, updates: Array, mode: str = "add", validate_indices: Array | bool = False
) -> Array:
    """Combines updates into data at the index tuples in the last dimension of `indices`."""
    return _scattered(data, _tuples(data, indices), updates, mode)


_COMBINE = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "max": np.maximum,
    "min": np.minimum,
}


def _scattered(data: Array, where: tuple, updates: Array, mode: str) -> Array:
    out = data.copy()
    if out[where].shape != updates.shape:
        raise ValueError(f"updates {updates.shape} for {out[where].shape} places in {data.shape}")
    if mode == "update":
        out[where] = updates
    elif mode in _COMBINE:
        _COMBINE[mode].at(out, where, updates)  # unbuffered: an index that comes twice counts twice
    else:
        raise ValueError(f"a scatter mode {mode!r}")
    return out


def _along_axis(x: Array, indices: Array, axis: int) -> tuple[Array, ...]:
    axis %= x.ndim
    others = [(n, k) for i, (n, k) in enumerate(zip(x.shape, indices.shape, strict=True)) if i != axis]
    if any(n != k for n, k in others):
        raise ValueError(f"indices {indices.shape} into {x.shape} along {axis}")
    where = list(np.ogrid[tuple(slice(n) for n in indices.shape)])
    where[axis] = _inside(indices, x.shape[axis])
    return tuple(where)


def _tuples(x: Array, indices: Array) -> tuple[Array, ...]:
    if indices.shape[-1] > x.ndim:
        raise ValueError(f"index tuples of {indices.shape[-1]} into rank {x.ndim}")
    return tuple(_inside(indices[..., i], x.shape[i]) for i in range(indices.shape[-1]))


# ---- shapes


def reshape(x: Array, shape: Array) -> Array:
    """-1 takes what remains; 0 keeps x's dimension at the same place from the right, 1 where x has none (iOS 17)."""
    sizes = ints(shape)
    kept = [1] * (len(sizes) - x.ndim) + list(x.shape[max(0, x.ndim - len(sizes)) :])
    return x.reshape([kept[i] if size == 0 else size for i, size in enumerate(sizes)])


def reshape_like(
    x: Array,
    ref_tensors: list[Array],
    begins: list[Array],
    ends: list[Array],
    end_masks: list[Array],
) -> Array:
    """The shape is put together from slices of the references' shapes."""
    spans = zip(ref_tensors, begins, ends, end_masks, strict=True)
    shape = [n for ref, b, e, to_end in spans for n in ref.shape[int(b) : ref.ndim if to_end else int(e)]]
    return x.reshape(shape)


def transpose(x: Array, perm: Array) -> Array:
    return np.transpose(x, ints(perm))


def squeeze(x: Array, axes: Array | None = None) -> Array:
    """Drops the dimensions of size 1 among `axes` (default: all); larger ones stay, as in PyTorch."""
    chosen = range(x.ndim) if axes is None else [a % x.ndim for a in ints(axes)]
    return x.reshape([n for i, n in enumerate(x.shape) if i not in chosen or n != 1])


def expand_dims(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(ints(axes)))


def concat(values: list[Array], axis: Array, interleave: Array | bool = False) -> Array:
    """Side by side along `axis`, or element by element where interleaved; scalars count as one element."""
    parts = [np.atleast_1d(value) for value in values]
    if not interleave:
        return np.concatenate(parts, int(axis))
    joined = np.stack(parts, int(axis) % parts[0].ndim + 1)
    shape = list(parts[0].shape)
    shape[int(axis)] *= len(parts)
    return joined.reshape(shape)


def stack(values: list[Array], axis: Array) -> Array:
    return np.stack(values, int(axis))


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


def pad(x: Array, pad: Array, mode: str = "constant", constant_val: Array | float = 0.0) -> Array:
    """Pads the last len(pad)/2 dimensions, `pad` giving before and after of each."""
    amounts = np.zeros((x.ndim, 2), np.int64)
    amounts[x.ndim - len(pad) // 2 :] = np.reshape(pad, (-1, 2))
    if mode == "constant":
        return np.pad(x, amounts, constant_values=np.asarray(constant_val, x.dtype))
    if mode == "reflect":
        return np.pad(x, amounts, "reflect")
    if mode == "replicate":
        return np.pad(x, amounts, "edge")
    raise ValueError(f"a pad mode {mode!r}")


def band_part(x: Array, lower: Array | int = -1, upper: Array | int = -1) -> Array:
    """Zero outside the band: `lower` diagonals below and `upper` above the main one, -1 for all."""
    m, n = np.ogrid[: x.shape[-2], : x.shape[-1]]
    inside = ((int(lower) < 0) | (m - n <= int(lower))) & ((int(upper) < 0) | (n - m <= int(upper)))
    return np.where(inside, x, np.zeros((), x.dtype))


def select(cond: Array, a: Array, b: Array) -> Array:
    return np.where(cond, a, b)


def fill(shape: Array, value: Array | float = 0.0) -> Array:
    return np.full(ints(shape), value if isinstance(value, np.ndarray) else np.float32(value))


def one_hot(
    indices: Array,
    one_hot_vector_size: Array,
    axis: Array | int = -1,
    on_value: Array | int = 1,
    off_value: Array | int = 0,
) -> Array:
    """`on_value` at the index along a new dimension `axis`, `off_value` elsewhere."""
    size = int(one_hot_vector_size)
    hot = np.arange(size) == _inside(indices, size)[..., None]
    on, off = (v if isinstance(v, np.ndarray) else np.int32(v) for v in (on_value, off_value))
    return np.moveaxis(np.where(hot, on, off), -1, int(axis))


def shape_of(x: Array) -> Array:
    return np.array(x.shape, np.int32)


def cast(x: Array, dtype: str) -> Array:
    """Floats to integers drop the fraction; to bool, all but zero is true. The evaluator checks the range."""
    if dtype == "bool":
        return x != 0
    if dtype in ("fp16", "fp32"):
        return x if x.dtype.kind == "f" else x.astype(np.float32)
    return np.trunc(x).astype(np.int64) if x.dtype.kind == "f" else x.astype(np.int64)


def identity(x: Array) -> Array:
    return x
