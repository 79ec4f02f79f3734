"""A model's weights in the data file that the ONNX graphs share: how they lie there, and under which names.

Owns the layout. A quantised matrix `m` of N rows and K columns is
- `m.codes`, uint8 [N, blocks, 16 or 32]: as `MatMulNBits` wants them, two codes of 4 bits a byte, the even column low;
- `m.scale`, float16 [N, blocks], or float32 where float16 does not hold it, and then `m.half_scale` beside it;
- `m.zero`, uint8, whole zero points, and `m.offset`, float16 [N, K / 32], what a code of 0 is worth: unless every zero
  point is the middle of the codes.
`blocks` is K / 32, and a few more where zero points are not whole (`with_zero_residual`). Knows no node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgesink.export.palettize import Palette
from edgesink.export.quantize import BLOCK, Blocks, as_half, quantize, stacked
from edgesink.export.to_onnx.builder import WeightFile
from edgesink.export.weights import Weights


@dataclass(frozen=True)
class Stored:
    """A matrix [rows, columns] in the data file; its tensors are `name` and a suffix each."""

    name: str
    rows: int
    columns: int
    bits: int = 0  # of codes; 0: floats under the name itself, [columns, rows], of a vocabulary [rows, columns]
    blocks: int = 0  # of a row, those for zero points that are not whole included
    symmetric: bool = True  # no `zero` and no `offset`
    half_scale: bool = False  # `scale` is float32, and `half_scale` beside it

    @property
    def has_residual(self) -> bool:
        """A row has more blocks than the matrix has columns for."""
        return self.blocks * BLOCK > self.columns


class OnnxWeights:
    """Weights by name, read, rounded and stored when they are first asked for."""

    def __init__(self, file: WeightFile, weights: Weights) -> None:
        self.file = file
        self._weights = weights
        self._stored: dict[str, list[Stored]] = {}
        self._vectors: set[str] = set()

    def vector(self, *names: str) -> str:
        """Vectors one behind the other, float32: a norm's weight, or the biases of a product."""
        key = "+".join(names)
        if key not in self._vectors:
            self._vectors.add(key)
            self.file.tensor(key, np.concatenate([np.asarray(self._weight(name), np.float32) for name in names]))
        return key

    def matrices(self, *names: str) -> list[Stored]:
        """The matrices, one below the other as one if they are held alike."""
        key = "+".join(names)
        if key not in self._stored:
            parts = [self._weight(name) for name in names]
            if len({_bits(part) for part in parts}) == 1:
                self._stored[key] = [self._store(key, _stacked(parts))]
            else:
                self._stored[key] = [self._store(name, part) for name, part in zip(names, parts, strict=True)]
        return self._stored[key]

    def vocabulary(self, name: str) -> Stored:
        """The embedding or the head, [V, hidden], looked up by rows: `name.rows` are codes, or `name` floats."""
        if name not in self._stored:
            weight = self._weight(name)
            if isinstance(weight, Blocks):
                if not weight.whole_zeros:  # looking a row up has no input to sum, so no column could make up for it
                    weight = quantize(weight.dequantized(), 8)
                stored = self._store(name, weight)
                self.file.alias(f"{name}.rows", f"{name}.codes", [stored.rows, stored.columns * stored.bits // 8])
            else:
                self.file.tensor(name, weight)
                stored = Stored(name, *weight.shape)
            self._stored[name] = [stored]
        return self._stored[name][0]

    def _weight(self, name: str) -> np.ndarray | Blocks:
        weight = self._weights(name)
        assert not isinstance(weight, Palette), "palettes are Core ML's, and refused before anything is written"
        return weight

    def _store(self, name: str, weight: np.ndarray | Blocks) -> Stored:
        if not isinstance(weight, Blocks):
            self.file.tensor(name, weight.T)
            return Stored(name, *weight.shape)
        rows, columns = weight.shape
        padded = weight if weight.whole_zeros else with_zero_residual(weight)
        blocks = padded.shape[1] // BLOCK
        self.file.tensor(f"{name}.codes", _packed(padded.codes, padded.bits).reshape(rows, blocks, -1), apart=True)
        half = as_half(padded.scale)
        exact = bool((half == padded.scale).all())
        self.file.tensor(f"{name}.scale", half.astype(np.float16) if exact else padded.scale, apart=exact)
        if not exact:
            self.file.tensor(f"{name}.half_scale", half.astype(np.float16), apart=True)
        if not weight.symmetric:
            self.file.tensor(f"{name}.zero", _packed(padded.zero.astype(np.uint8), padded.bits))
            self.file.tensor(f"{name}.offset", (-weight.scale * weight.zero).astype(np.float16), apart=True)
        return Stored(name, rows, columns, weight.bits, blocks, weight.symmetric, not exact)


def with_zero_residual(weight: Blocks) -> Blocks:
    """The same matrix with whole zero points, and K / 32 more columns that make up for the rounding.

    ONNX Runtime is fast with whole zero points only, and GGUF's Q4_1 has fractional ones. The rounding of a block's
    zero point is off by the same e = scale * (whole - zero) for all its 32 inputs, so it is made up for by one column
    holding 32 e that multiplies the mean of those inputs. The columns are held in 4 bits like the rest.
    """
    rows, columns = weight.shape
    whole = np.clip(np.rint(weight.zero), 0, 15)
    error = BLOCK * weight.scale * (whole - weight.zero)  # [N, K / 32]
    padded = np.zeros((rows, -(-columns // BLOCK // BLOCK) * BLOCK), np.float32)
    padded[:, : error.shape[1]] = error
    blocks = padded.reshape(rows, -1, BLOCK)
    scale = as_half(np.abs(blocks).max(-1) / 7)
    codes = np.clip(np.rint(blocks / scale[..., None]) + 8, 0, 15).astype(np.uint8).reshape(rows, -1)
    return Blocks(
        np.concatenate([weight.codes, codes], axis=1),
        np.concatenate([weight.scale, scale], axis=1).astype(np.float32),
        np.concatenate([whole, np.full_like(scale, 8)], axis=1),
        weight.bits,
    )


def _stacked(parts: Sequence[np.ndarray | Blocks]) -> np.ndarray | Blocks:
    blocks = [part for part in parts if isinstance(part, Blocks)]
    return stacked(blocks) if blocks else np.concatenate([part for part in parts if not isinstance(part, Blocks)])


def _bits(weight: np.ndarray | Blocks) -> int:
    """0 for floats."""
    return weight.bits if isinstance(weight, Blocks) else 0


def _packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes of 4 bits two a byte, the first in the low half: [N, ceil(K / 2)]; those of 8 as they are."""
    if bits == 8:
        return codes
    if codes.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    return codes[:, 0::2] | (codes[:, 1::2] << 4)
