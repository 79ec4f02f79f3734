"""Weights in 4 or 8 bits: one block of 32 values along the input axis shares a scale and a zero point.

Owns the numbers of a quantised matrix (`Blocks`) and the rules that make them, from full precision and from GGUF
blocks, which are carried over as they are. Knows no target: an emitter lays the blocks down in its own format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgesink.errors import BadOption

BLOCK = 32  # values that share a scale


@dataclass(frozen=True)
class Blocks:
    """A quantised matrix: w[n, k] = scale[n, k // 32] * (codes[n, k] - zero[n, k // 32])."""

    codes: np.ndarray  # uint8 [N, K], 0 … 2**bits - 1
    scale: np.ndarray  # float32 [N, K / 32]
    zero: np.ndarray  # float32 [N, K / 32]; whole numbers, but for what GGUF's Q4_1 carries over
    bits: int  # 4 or 8

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def middle(self) -> int:
        """The zero point of a symmetric code."""
        return 1 << (self.bits - 1)

    @property
    def symmetric(self) -> bool:
        """Every zero point is the middle of the codes."""
        return bool((self.zero == self.middle).all())

    @property
    def whole_zeros(self) -> bool:
        """Every zero point is one of the codes."""
        return bool(((self.zero == np.rint(self.zero)) & (self.zero >= 0) & (self.zero < 1 << self.bits)).all())

    def dequantized(self) -> np.ndarray:
        """float32 [N, K]."""
        rows, columns = self.shape
        blocks = self.codes.reshape(rows, columns // BLOCK, BLOCK).astype(np.float32)
        return ((blocks - self.zero[..., None]) * self.scale[..., None]).reshape(rows, columns)

    def rows(self, order: np.ndarray) -> Blocks:
        """The matrix with its rows in another order."""
        return Blocks(self.codes[order], self.scale[order], self.zero[order], self.bits)


def stacked(parts: Sequence[Blocks]) -> Blocks:
    """Matrices of one input laid one below the other: [N1 + N2 …, K]."""
    return Blocks(
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.scale for part in parts]),
        np.concatenate([part.zero for part in parts]),
        parts[0].bits,
    )


def check_columns(columns: int, matrix: str) -> None:
    """BadOption, naming the matrix, if its columns make no whole number of blocks."""
    if columns % BLOCK:
        raise BadOption(
            f"{matrix} has {columns} columns", f"a multiple of {BLOCK} for weights in 4 or 8 bits", "take fp32 or fp16"
        )


def as_half(scale: np.ndarray) -> np.ndarray:
    """Scales as float16 holds them, float32; none becomes 0, nor infinite."""
    return np.clip(scale, 2.0**-24, 65504).astype(np.float16).astype(np.float32)


def quantize(weight: np.ndarray, bits: int) -> Blocks:
    """Round a float32 matrix [N, K] to `bits` with the least squared error that the rule finds.

    8 bits: symmetric, the largest value of a block on the last code. 4 bits: asymmetric; the range of each block is
    shrunk by a few factors and the one with the least squared error kept. BadOption if K is no multiple of 32.
    """
    rows, columns = weight.shape
    check_columns(columns, "a matrix")
    blocks = weight.reshape(rows, columns // BLOCK, BLOCK)
    codes = np.empty(blocks.shape, np.uint8)
    scale = np.empty(blocks.shape[:2], np.float32)
    zero = np.empty(blocks.shape[:2], np.float32)
    rule = _symmetric if bits == 8 else _asymmetric
    step = max(1, (1 << 18) // columns)  # rows at a time: what is worked on stays in the processor's cache
    for start in range(0, rows, step):
        part = slice(start, start + step)
        codes[part], scale[part], zero[part] = rule(blocks[part], bits)
    return Blocks(codes.reshape(rows, columns), scale, zero, bits)


def _symmetric(blocks: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    middle = 1 << (bits - 1)
    scale = np.abs(blocks).max(-1) / (middle - 1)
    scale = as_half(np.where(scale == 0, 1, scale))
    codes = (
        np.clip(np.rint(blocks / scale[..., None]), 1 - middle, middle - 1) + middle
    )  # the scale may be rounded down
    return codes.astype(np.uint8), scale, np.full(scale.shape, middle, np.float32)


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
    return codes, scale, zero


def from_gguf(data: np.ndarray, kind: str, rows: int, columns: int) -> Blocks | None:
    """The blocks of a GGUF tensor, exactly; None where its kind does not map onto (scale, zero point) blocks of 32.

    `data`: its bytes, uint8. Layouts as in ggml-common.h: Q4_0 d, 16 nibble pairs; Q4_1 d, m, 16 nibble pairs;
    Q8_0 d, 32 int8; Q4_K eight blocks that share d and dmin, 12 bytes of 6-bit factors, 128 nibble pairs. The low
    nibbles are the first half of a block, in Q4_K the first of two blocks.
    """
    if kind == "Q4_K":
        return _from_q4_k(data.reshape(rows, columns // 256, 144))
    if kind not in ("Q8_0", "Q4_0", "Q4_1"):
        return None
    raw = data.reshape(rows, columns // BLOCK, -1)
    if kind == "Q8_0":
        codes = raw[..., 2:].view(np.int8).astype(np.int16) + 128
        scale = _half(raw[..., 0:2])
        return Blocks(codes.astype(np.uint8).reshape(rows, columns), scale, np.full_like(scale, 128), 8)
    if kind == "Q4_0":
        scale = _half(raw[..., 0:2])
        return Blocks(_nibbles(raw[..., 2:], rows, columns), scale, np.full_like(scale, 8), 4)
    return _affine(_nibbles(raw[..., 4:], rows, columns), _half(raw[..., 0:2]), _half(raw[..., 2:4]))


def _from_q4_k(raw: np.ndarray) -> Blocks:
    """Super-blocks uint8 [N, K / 256, 144]."""
    rows, count, _ = raw.shape
    packed = raw[..., 4:16].astype(np.int32)  # factors of blocks 0-3, offsets of 0-3, and of 4-7 the low four bits
    low, middle, high = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    factor = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=-1)  # [N, K / 256, 8]
    offset = np.concatenate([middle & 63, (high >> 4) | (middle >> 6 << 4)], axis=-1)
    scale = (_half(raw[..., 0:2])[..., None] * factor).reshape(rows, count * 8)
    least = (_half(raw[..., 2:4])[..., None] * -offset).reshape(rows, count * 8)
    pairs = raw[..., 16:].reshape(rows, count * 4, BLOCK)  # two blocks each
    return _affine(_nibbles(pairs, rows, count * 256), scale.astype(np.float32), least.astype(np.float32))


def _affine(codes: np.ndarray, scale: np.ndarray, least: np.ndarray) -> Blocks:
    """w = scale * code + least, 4 bits."""
    flat = scale == 0  # a block of one value: any scale with code - zero = 1 says it
    safe = np.where(flat, np.where(least == 0, 1, least), scale)
    zero = np.where(flat, np.where(least == 0, 0, -1), -least / safe)
    if flat.any():
        codes[np.repeat(flat, BLOCK, axis=-1)] = 0
    return Blocks(codes, safe.astype(np.float32), zero.astype(np.float32), 4)


def _half(data: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(data).view(np.float16)[..., 0].astype(np.float32)


def _nibbles(data: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return np.concatenate([data & 15, data >> 4], axis=-1).reshape(rows, columns)
