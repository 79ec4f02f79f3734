"""The blocks of GGUF tensors, carried over bit by bit.

Owns how ten of GGUF's types lie in a file (ggml-common.h; the order of the bits in them as `gguf.quants` reads it). The
low nibbles of 16 bytes are the first half of a block of 32, the high ones the second; of the types with super-blocks
those of 32 bytes are one block and the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgesink.export.blocks import BLOCK, SUPER_BLOCK, Blocks
from edgesink.export.halves import HALVES, Halves

Raw = np.ndarray
"""uint8 [N, blocks, bytes of a block]."""


@dataclass(frozen=True)
class Kind:
    """A type of GGUF tensors."""

    bits: int  # of a code
    read: Callable[[Raw], Blocks]
    size: int = BLOCK  # columns of one of its blocks


def bits_of(kind: str) -> int:
    """Of a code of a matrix of this type in a bundle: what is not carried over is rounded to 8."""
    if kind in HALVES:
        return Halves.bits
    return KINDS[kind].bits if kind in KINDS else 8


def is_exact(kind: str) -> bool:
    """Whether a matrix of this type is carried over bit by bit."""
    return kind in KINDS or kind in HALVES


def from_gguf(data: np.ndarray, kind: str, columns: int) -> Blocks:
    """The blocks of a GGUF tensor of one of `KINDS`, exactly; data: its bytes, uint8 [N, bytes of a row]."""
    found = KINDS[kind]
    return found.read(data.reshape(len(data), columns // found.size, -1))


def _q4_0(raw: Raw) -> Blocks:
    return Blocks(_codes(_nibbles(raw[..., 2:])), _half(raw[..., 0:2]), bits=4)


def _q4_1(raw: Raw) -> Blocks:
    return Blocks(_codes(_nibbles(raw[..., 4:])), _half(raw[..., 0:2]), bits=4, offset=_half(raw[..., 2:4]))


def _q5_0(raw: Raw) -> Blocks:
    return Blocks(_fives(raw[..., 6:], raw[..., 2:6]), _half(raw[..., 0:2]), bits=5)


def _q5_1(raw: Raw) -> Blocks:
    return Blocks(_fives(raw[..., 8:], raw[..., 4:8]), _half(raw[..., 0:2]), bits=5, offset=_half(raw[..., 2:4]))


def _q8_0(raw: Raw) -> Blocks:
    return Blocks(_codes(raw[..., 2:] ^ 128), _half(raw[..., 0:2]), bits=8)  # int8 + 128


def _iq4_nl(raw: Raw) -> Blocks:
    return Blocks(_codes(_nibbles(raw[..., 2:])), _half(raw[..., 0:2]), bits=4, is_table=True)


def _q4_k(raw: Raw) -> Blocks:
    return _with_minima(raw, _pairs(raw[..., 16:]), bits=4)


def _q5_k(raw: Raw) -> Blocks:
    fifth = _bits(raw[..., 16:48], width=1)  # [N, B, 8, 32]: bit i of 32 bytes is block i's
    return _with_minima(raw, _pairs(raw[..., 48:]) | fifth << 4, bits=5)


def _with_minima(raw: Raw, codes: np.ndarray, bits: int) -> Blocks:
    """Codes [N, B, 8, 32] under a header of d, dmin and twelve bytes of 6-bit factors."""
    low, middle, high = raw[..., 4:8], raw[..., 8:12], raw[..., 12:16]  # of blocks 4 to 7 the low four bits are in high
    factors = np.concatenate([low & 63, (high & 15) | low >> 6 << 4], axis=-1)
    minima = np.concatenate([middle & 63, high >> 4 | middle >> 6 << 4], axis=-1)
    return Blocks(_codes(codes), _half(raw[..., 0:2]), bits, _factors(factors), -_half(raw[..., 2:4]), _factors(minima))


def _q6_k(raw: Raw) -> Blocks:
    low = _nibbles(raw[..., :128].reshape(*raw.shape[:2], 2, 64))  # [N, B, 2, 128]: each half's first 64 columns low
    high = _bits(raw[..., 128:192].reshape(*raw.shape[:2], 2, 32), width=2)  # [N, B, 2, 4, 32]
    codes = low.reshape(high.shape) | high << 4
    return Blocks(_codes(codes), _half(raw[..., 208:210]), bits=6, factors=_factors(raw[..., 192:208]))


def _iq4_xs(raw: Raw) -> Blocks:
    low = np.stack([raw[..., 4:8] & 15, raw[..., 4:8] >> 4], axis=-1).reshape(*raw.shape[:2], 8)
    high = np.swapaxes(_bits(raw[..., 2:4], width=2), -1, -2).reshape(low.shape)
    factors = _factors((low | high << 4).view(np.int8) - 32)
    codes = _nibbles(raw[..., 8:].reshape(*raw.shape[:2], 8, 16))
    return Blocks(_codes(codes), _half(raw[..., 0:2]), bits=4, factors=factors, is_table=True)


KINDS: Mapping[str, Kind] = {
    "Q4_0": Kind(4, _q4_0),
    "Q4_1": Kind(4, _q4_1),
    "Q5_0": Kind(5, _q5_0),
    "Q5_1": Kind(5, _q5_1),
    "Q8_0": Kind(8, _q8_0),
    "IQ4_NL": Kind(4, _iq4_nl),
    "Q4_K": Kind(4, _q4_k, SUPER_BLOCK),
    "Q5_K": Kind(5, _q5_k, SUPER_BLOCK),
    "Q6_K": Kind(6, _q6_k, SUPER_BLOCK),
    "IQ4_XS": Kind(4, _iq4_xs, SUPER_BLOCK),
}
"""Those that are carried over, but for `HALVES`; whatever else a file holds is rounded."""


def _half(data: np.ndarray) -> np.ndarray:
    """float16 [N, blocks] of uint8 [N, blocks, 2]."""
    return np.ascontiguousarray(data).view(np.float16)[..., 0]


def _nibbles(data: np.ndarray) -> np.ndarray:
    """The low ones of the last axis, then the high ones."""
    return np.concatenate([data & 15, data >> 4], axis=-1)


def _pairs(data: np.ndarray) -> np.ndarray:
    """[N, B, 128] of bytes that hold two blocks for 32 each: [N, B, 8, 32]."""
    runs = data.reshape(*data.shape[:2], 4, BLOCK)
    return np.stack([runs & 15, runs >> 4], axis=3).reshape(*data.shape[:2], 8, BLOCK)


def _bits(data: np.ndarray, width: int) -> np.ndarray:
    """[…, n] -> […, 8 / width, n]: so many bits of each byte, the lowest first."""
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    return data[..., None, :] >> shifts & np.uint8((1 << width) - 1)


def _fives(nibbles: np.ndarray, fifth: np.ndarray) -> np.ndarray:
    """Codes of 5 bits: bit i of four bytes is column i's highest."""
    return _codes(_nibbles(nibbles) | np.unpackbits(fifth, axis=-1, bitorder="little") << 4)


def _codes(values: np.ndarray) -> np.ndarray:
    """uint8 [N, K]."""
    return np.ascontiguousarray(values.reshape(len(values), -1))


def _factors(values: np.ndarray) -> np.ndarray:
    """int8 [N, blocks]."""
    return np.ascontiguousarray(values.reshape(len(values), -1)).view(np.int8)
