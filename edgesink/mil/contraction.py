"""MIL operations that sum products or normalise: linear, matmul, softmax.

Owns their arithmetic on fp32 (or int64) arrays; one operation accumulates in fp32 throughout. Refuses to know about
fp16: the evaluator widens what comes in and rounds what goes out.

Follows the documentation of coremltools' `mil/ops/defs/iOS15|17/linear.py`, `normalization.py` and
`activation.py`. Parameters carry MIL's names.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x [*, D_in] @ weight [D_out, D_in].T + bias."""
    if x.ndim > 3:
        raise ValueError(f"x of rank {x.ndim}; linear is defined up to rank 3")
    out = (x.reshape(-1, x.shape[-1]) @ weight.T).reshape(*x.shape[:-1], weight.shape[0])  # one product, not a stack
    return out if bias is None else out + bias


def matmul(x: Array, y: Array, transpose_x: Array | bool = False, transpose_y: Array | bool = False) -> Array:
    """numpy's matmul; transposing a vector has no effect."""
    if transpose_x and x.ndim > 1:
        x = x.swapaxes(-1, -2)
    if transpose_y and y.ndim > 1:
        y = y.swapaxes(-1, -2)
    return np.matmul(x, y)


def softmax(x: Array, axis: Array | int = -1) -> Array:
    axis = int(axis)
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)
