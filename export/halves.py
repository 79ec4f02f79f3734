"""A matrix of 16-bit floats as a GGUF holds it among quantised ones.

Owns its bits and what they are worth. Which matrices are held so is the rule of `weights`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgesink.errors import BadOption

HALVES = ("F16", "BF16")
"""The types of GGUF tensors that are held so."""


@dataclass(frozen=True)
class Halves:
    """float16, or bfloat16: the upper half of a float32."""

    codes: np.ndarray  # uint8 [N, 2 K]: the floats' bytes, low ones first
    is_bfloat: bool

    bits = 16  # of a weight

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.codes.shape[1] // 2

    @property
    def form(self) -> tuple[object, ...]:
        """What matrices must have in common to be one."""
        return self.bits, self.is_bfloat

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes

    def dequantized(self) -> np.ndarray:
        """float32 [N, K], exactly."""
        if self.is_bfloat:
            return (self.codes.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return self.codes.view(np.float16).astype(np.float32)

    def as_float16(self) -> np.ndarray:
        """float16 [N, K]: of bfloat16 only values below 6e-5 are rounded; BadOption if one is beyond the range."""
        if not self.is_bfloat:
            return self.codes.view(np.float16)
        values = self.dequantized()
        most, largest = float(np.abs(values).max(initial=0)), float(np.finfo(np.float16).max)
        if most > largest:
            found = f"a matrix has a value of magnitude {most:.3g}"
            raise BadOption(found, f"{largest:.0f} at most", "take --target onnx")
        return values.astype(np.float16)

    def rows(self, order: np.ndarray) -> Halves:
        """The matrix with its rows in another order."""
        return replace(self, codes=self.codes[order])

    def arrays(self) -> dict[str, np.ndarray]:
        """By the names of the fields."""
        return {"codes": self.codes}


def halves_of_gguf(data: np.ndarray, kind: str) -> Halves:
    """Of a GGUF tensor of one of `HALVES`; data: [N, …], a row's bytes or floats."""
    return Halves(np.ascontiguousarray(data).view(np.uint8).reshape(len(data), -1), kind == "BF16")
