"""Decoding of compressed constants: the `constexpr_*` operations of iOS 18.

Owns the arithmetic from stored integers and tables to dense float arrays. Refuses to know how they were stored
(`package` hands over unpacked elements) and when they are decoded (`evaluator`).

Follows the documentation of coremltools' `mil/ops/defs/iOS18/compression.py`. Floats are decoded in fp32; the evaluator
rounds them to the declared type where it obeys it.
"""

from __future__ import annotations

from math import prod

import numpy as np

Array = np.ndarray


def blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """scale * (data - offset), one scale and offset per block; the block sizes follow from the shapes.

    data: any integer or float array; scale, offset: same rank, each dimension a divisor of data's.
    """
    blocks = _blocks(data.shape, scale.shape)
    if offset is not None and offset.shape != scale.shape:
        raise ValueError(f"offset {offset.shape} has not the shape of scale {scale.shape}")
    per_block = [size for pair in zip(scale.shape, blocks, strict=True) for size in pair]  # s0, b0, s1, b1 …
    one_each = [size for count in scale.shape for size in (count, 1)]  # s0, 1, s1, 1 …
    values = data.reshape(per_block).astype(np.float32)
    if offset is not None:
        values -= offset.reshape(one_each).astype(np.float32)
    values *= scale.reshape(one_each).astype(np.float32)
    return values.reshape(data.shape)


def lut_to_dense(indices: Array, lut: Array, vector_axis: Array | None = None) -> Array:
    """Table entries at `indices`, one element each; lut: [per dimension of indices its number of tables …, palettes,
    vector]."""
    if lut.ndim != indices.ndim + 2:
        raise ValueError(f"a table of rank {lut.ndim} for indices of rank {indices.ndim}")
    tables, vector = lut.shape[:-2], lut.shape[-1]
    blocks = _blocks(indices.shape, tables)
    per_block = [size for pair in zip(tables, blocks, strict=True) for size in pair]
    one_each = [size for count in tables for size in (count, 1)]
    table = np.arange(prod(tables)).reshape(one_each)  # which table serves each block
    entries = lut.reshape(prod(tables), *lut.shape[-2:])[table, indices.reshape(per_block)]
    entries = entries.reshape(*indices.shape, vector)
    if vector == 1:
        return entries.reshape(indices.shape)
    if vector_axis is None:
        raise ValueError("a table of vectors needs vector_axis")
    axis = int(vector_axis) % indices.ndim
    sizes = [size * (vector if i == axis else 1) for i, size in enumerate(indices.shape)]
    return np.moveaxis(entries, -1, axis + 1).reshape(sizes)


def _blocks(whole: tuple[int, ...], counts: tuple[int, ...]) -> list[int]:
    """Elements per block along each dimension."""
    if len(whole) != len(counts) or any(size % count for size, count in zip(whole, counts, strict=True)):
        raise ValueError(f"blocks {counts} do not divide {whole}")
    return [size // count for size, count in zip(whole, counts, strict=True)]
