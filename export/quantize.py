"""Weights rounded to 4 or 8 bits in blocks of 32.

Owns the rules that make `Blocks` of a matrix in full precision; what a GGUF rounded itself is `gguf_blocks`'.
"""

from __future__ import annotations

import numpy as np

from edgesink.errors import BadOption
from edgesink.export.blocks import BLOCK, Blocks, check_columns

LARGEST = 65504  # of float16


def quantize(weight: np.ndarray, bits: int) -> Blocks:
    """Round a float32 matrix [N, K] to `bits` with the least squared error that the rule finds.

    8 bits: symmetric, the largest value of a block on the last code. 4 bits: asymmetric; the range of each block is
    shrunk by a few factors and the one with the least squared error kept. BadOption if K is no multiple of 32, or a
    value is beyond float16.
    """
    rows, columns = weight.shape
    check_columns(columns, "a matrix")
    blocks = weight.reshape(rows, columns // BLOCK, BLOCK)
    codes = np.empty(blocks.shape, np.uint8)
    scale, offset = np.empty(blocks.shape[:2], np.float16), np.empty(blocks.shape[:2], np.float16)
    step = max(1, (1 << 18) // columns)  # rows at a time: what is worked on stays in the processor's cache
    for start in range(0, rows, step):
        part = slice(start, start + step)
        _check_range(blocks[part])
        if bits == 8:
            codes[part], scale[part] = _symmetric(blocks[part], bits)
        else:
            codes[part], scale[part], offset[part] = _asymmetric(blocks[part], bits)
    return Blocks(codes.reshape(rows, columns), scale, bits, offset=None if bits == 8 else offset)


def as_half(scale: np.ndarray) -> np.ndarray:
    """Scales as float16 holds them, float32; none becomes 0, nor infinite."""
    return np.clip(scale, 2.0**-24, LARGEST).astype(np.float16).astype(np.float32)


def _check_range(values: np.ndarray) -> None:
    most = float(np.abs(values).max(initial=0))
    if most > LARGEST:
        raise BadOption(f"a matrix has a value of magnitude {most:.3g}", f"{LARGEST} at most", "take --precision fp32")


def _symmetric(blocks: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    middle = 1 << (bits - 1)
    scale = np.abs(blocks).max(-1) / (middle - 1)
    scale = as_half(np.where(scale == 0, 1, scale))
    codes = np.clip(np.rint(blocks / scale[..., None]), 1 - middle, middle - 1)  # the scale may be rounded down
    return (codes + middle).astype(np.uint8), scale


def _asymmetric(blocks: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    top = (1 << bits) - 1
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    energy = np.einsum("...k,...k->...", blocks, blocks)
    best_error = np.full(low.shape, np.inf, np.float32)
    codes = np.zeros(blocks.shape, np.uint8)
    scale, zero = np.ones(low.shape, np.float32), np.zeros(low.shape, np.float32)
    for shrink in (1.0, 0.95, 0.9, 0.85, 0.8):
        candidate = ((high - low) * shrink / top).astype(np.float32)
        candidate[candidate == 0] = 1
        offset = np.clip(np.rint(-low * shrink / candidate), 0, top).astype(np.float32)
        centred = blocks * (1 / candidate)[..., None]
        np.rint(centred, out=centred)
        np.clip(centred, -offset[..., None], (top - offset)[..., None], out=centred)
        # the scale that fits these codes best, by least squares, and what it leaves
        power = np.einsum("...k,...k->...", centred, centred)
        overlap = np.einsum("...k,...k->...", centred, blocks)
        fitted = as_half(np.where(overlap > 0, overlap / np.maximum(power, 1e-12), candidate))
        error = energy - 2 * fitted * overlap + fitted * fitted * power
        better = error < best_error
        best_error = np.where(better, error, best_error)
        centred += offset[..., None]
        np.copyto(codes, centred, where=better[..., None], casting="unsafe")
        scale, zero = np.where(better, fitted, scale), np.where(better, offset, zero)
    return codes, scale, np.clip(-scale * zero, -LARGEST, LARGEST)  # a fitted scale may lead beyond
