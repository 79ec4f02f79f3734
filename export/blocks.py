"""A quantised matrix: codes of a few bits, and what they are worth, told block by block along the input axis.

Owns the numbers of such a matrix (`Blocks`). Knows no rule that makes them and no target: `quantize` and `gguf_blocks`
make them, an emitter lays them down in its own format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from edgesink.errors import BadOption
from edgesink.export.halves import Halves

BLOCK = 32  # columns that share a scale, or half of those that do
SUPER_BLOCK = 256  # columns that share the scale of their blocks' factors
IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
"""What the codes of GGUF's IQ4_NL and IQ4_XS stand for (`kvalues_iq4nl` of ggml-common.h)."""


@dataclass(frozen=True)
class Blocks:
    """w[n, k] = scale * value(code) + offset, of the block that column k lies in.

    Without factors a scale and an offset belong to a block of 32 columns. With factors they belong to a super-block of
    256, and a block's own are they times its factor. Without an offset codes count from the middle: their value is
    code - 2 ** (bits - 1), or in a table IQ4's.
    """

    codes: np.ndarray  # uint8 [N, K], 0 … 2 ** bits - 1
    scale: np.ndarray  # float16 [N, K / 32]; with factors [N, K / 256]
    bits: int  # 4, 5, 6 or 8
    factors: np.ndarray | None = None  # int8 [N, K / 32], or [N, K / 16]
    offset: np.ndarray | None = None  # float16, as many as scales
    offset_factors: np.ndarray | None = None  # int8 [N, K / 32], where there are factors and an offset
    is_table: bool = False  # of 4 bits: a code stands for one of `IQ4_VALUES`

    def __post_init__(self) -> None:
        assert self.bits in (4, 5, 6, 8), f"{self.bits} bits"
        assert self.offset is None or (self.bits < 6 and not self.is_table), "an offset of codes that are signed"
        assert (self.offset_factors is None) == (self.factors is None or self.offset is None)
        assert self.codes.shape[1] % self.block == 0

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def block(self) -> int:
        """Columns that share a scale, their factor taken in: 32 or 16."""
        held = self.scale if self.factors is None else self.factors
        return self.codes.shape[1] // held.shape[1]

    @property
    def middle(self) -> int:
        """The code whose value is 0 where there is no offset and no table; else 0."""
        return 0 if self.is_table or self.offset is not None else 1 << (self.bits - 1)

    @property
    def form(self) -> tuple[object, ...]:
        """What matrices must have in common to be one."""
        return self.bits, self.is_table, self.block, self.factors is None, self.offset is None

    @property
    def nbytes(self) -> int:
        """Of all that it consists of, with codes as dense as their bits allow."""
        arrays = (self.scale, self.factors, self.offset, self.offset_factors)
        return self.codes.size * self.bits // 8 + sum(array.nbytes for array in arrays if array is not None)

    def scales(self) -> np.ndarray:
        """float32 [N, K / block]: what a step of the codes is worth."""
        return _multiplied(self.scale, self.factors)

    def offsets(self) -> np.ndarray | None:
        """float32 [N, K / 32]: what a code of 0 is worth; None where codes count from the middle."""
        return None if self.offset is None else _multiplied(self.offset, self.offset_factors)

    def values(self) -> np.ndarray:
        """int16 [N, K]: what a step is multiplied by."""
        values = IQ4_VALUES[self.codes] if self.is_table else self.codes
        return values.astype(np.int16) - np.int16(self.middle)

    def dequantized(self) -> np.ndarray:
        """float32 [N, K], each rounded as the `gguf` package does."""
        rows, columns = self.shape
        weight = (self.values().reshape(rows, -1, self.block) * self.scales()[..., None]).reshape(rows, columns)
        offsets = self.offsets()
        return weight if offsets is None else weight + np.repeat(offsets, BLOCK, axis=1)

    def rows(self, order: np.ndarray) -> Blocks:
        """The matrix with its rows in another order."""
        return replace(self, **{name: array[order] for name, array in self.arrays().items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """By the names of the fields."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in held.items() if isinstance(array, np.ndarray)}


Matrix = TypeVar("Matrix", Blocks, Halves)


def stacked(parts: Sequence[Matrix]) -> Matrix:
    """Matrices of one input and one form laid one below the other: [N1 + N2 …, K]."""
    arrays = [part.arrays() for part in parts]
    return replace(parts[0], **{name: np.concatenate([held[name] for held in arrays]) for name in arrays[0]})


def in_turn(parts: Sequence[Matrix], rows: int) -> Matrix:
    """Matrices of one shape and one form, `rows` of each in turn: [N1 + N2 …, K]."""
    arrays = [part.arrays() for part in parts]
    return replace(parts[0], **{name: _woven([held[name] for held in arrays], rows) for name in arrays[0]})


def check_columns(columns: int, matrix: str) -> None:
    """BadOption, naming the matrix, if its columns make no whole number of blocks."""
    if columns % BLOCK:
        raise BadOption(
            f"{matrix} has {columns} columns", f"a multiple of {BLOCK} for weights in 4 or 8 bits", "take fp32 or fp16"
        )


def _woven(parts: Sequence[np.ndarray], rows: int) -> Any:
    """[N, …] each -> [N1 + N2 …, …]."""
    shape = parts[0].shape[1:]
    return np.stack([part.reshape(-1, rows, *shape) for part in parts], axis=1).reshape(-1, *shape)


def _multiplied(scale: np.ndarray, factors: np.ndarray | None) -> np.ndarray:
    """float32, exactly: 11 bits times 8."""
    if factors is None:
        return scale.astype(np.float32)
    return np.repeat(scale.astype(np.float32), factors.shape[1] // scale.shape[1], axis=1) * factors
