"""MIL operations that sum products or normalise: linear, matmul, convolution, attention, softmax, norms.

Owns their arithmetic on fp32 (or int64) arrays; one operation accumulates in fp32 throughout. Refuses to know about
fp16: the evaluator widens what comes in and rounds what goes out.

Follows the documentation of coremltools' `mil/ops/defs/iOS15|17/linear.py`, `conv.py`, `normalization.py`,
`activation.py` and `iOS18/transformers.py`. Parameters carry MIL's names.
"""

from __future__ import annotations

import numpy as np

from edgesink.mil.movement import ints

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


def scaled_dot_product_attention(query: Array, key: Array, value: Array, attn_mask: Array | None = None) -> Array:
    """softmax(q @ k.T / sqrt(E) + mask) @ v; a bool mask says which keys take part. All inside in fp32."""
    scores = np.matmul(query, key.swapaxes(-1, -2)) / np.sqrt(np.float32(query.shape[-1]))
    if attn_mask is not None and attn_mask.dtype == np.bool_:
        scores = np.where(attn_mask, scores, np.float32(-np.inf))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return np.matmul(softmax(scores), value)


def softmax(x: Array, axis: Array | int = -1) -> Array:
    axis = int(axis)
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def layer_norm(
    x: Array,
    axes: Array | None = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Array | float = 1e-5,
) -> Array:
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta over `axes` (default: all), statistics in fp32."""
    over = tuple(range(x.ndim)) if axes is None else tuple(a % x.ndim for a in ints(axes))
    shape = [n if i in over else 1 for i, n in enumerate(x.shape)]
    centred = x - x.mean(over, keepdims=True)
    out = centred / np.sqrt(np.square(centred).mean(over, keepdims=True) + np.float32(epsilon))
    if gamma is not None:
        out = out * gamma.reshape(shape)
    return out if beta is None else out + beta.reshape(shape)


def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    dilations: Array | None = None,
    groups: Array | int = 1,
) -> Array:
    """x [n, C_in, *d], weight [C_out, C_in/groups, *K] -> [n, C_out, *d_out]; 1 to 3 spatial dimensions.

    `same` and `same_lower` are refused except where one reading of the documentation is possible: stride 1 and an
    odd extent of the kernel.
    """
    count = x.ndim - 2
    steps = [1] * count if strides is None else ints(strides)
    spread = [1] * count if dilations is None else ints(dilations)
    extents = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], spread, strict=True)]
    x = np.pad(x, [(0, 0), (0, 0), *_conv_padding(pad_type, pad, extents, steps)])
    windows = np.lib.stride_tricks.sliding_window_view(x, tuple(extents), tuple(range(2, x.ndim)))  # type: ignore[call-overload]  # n, C_in, *d, *extent
    every = tuple(slice(None, None, s) for s in (*steps, *spread))
    windows = windows[(slice(None), slice(None), *every)]  # n, C_in, *d_out, *K
    parts = int(groups)
    if weight.shape[1] * parts != x.shape[1] or weight.shape[0] % parts:
        raise ValueError(f"weights {weight.shape} in {parts} groups for {x.shape[1]} channels")
    kernel = [1, *range(windows.ndim - count, windows.ndim)]
    out = np.concatenate(
        [
            np.tensordot(w, part, axes=(list(range(1, w.ndim)), kernel)).swapaxes(0, 1)  # n, C_out/groups, *d_out
            for w, part in zip(np.split(weight, parts), np.split(windows, parts, axis=1), strict=True)
        ],
        axis=1,
    )
    return out if bias is None else out + bias.reshape(-1, *[1] * count)


def _conv_padding(pad_type: str, pad: Array | None, extents: list[int], steps: list[int]) -> list[tuple[int, int]]:
    if pad_type == "valid":
        return [(0, 0)] * len(extents)
    if pad_type == "custom" and pad is not None:
        amounts = ints(pad)
        return list(zip(amounts[::2], amounts[1::2], strict=True))
    if pad_type in ("same", "same_lower") and set(steps) == {1} and all(e % 2 for e in extents):
        return [(e // 2, e // 2) for e in extents]
    raise ValueError(f"a convolution with pad_type {pad_type!r}, strides {steps} and kernel extent {extents}")
