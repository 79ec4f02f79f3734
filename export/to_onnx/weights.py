"""A model's weights in the data file that the ONNX graphs share, under their names.

Owns which matrices are stored as one, and what is told of each (`Stored`). A matrix of blocks `m` lies in the tensors
`m.codes`, `m.scale` and those others that it has (`layout.laid_out`); one of a GGUF's 16-bit floats in `m.codes`, and
`m.floats` means the same bytes; one of other floats in `m`. Knows no node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import TypeVar

import numpy as np
from onnx import TensorProto

from edgesink.export.blocks import BLOCK, SUPER_BLOCK, Blocks, in_turn, stacked
from edgesink.export.halves import Halves
from edgesink.export.palettize import Palette
from edgesink.export.to_onnx.builder import WeightFile
from edgesink.export.to_onnx.layout import GROUP, laid_out
from edgesink.export.weights import Weights

T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """A matrix [rows, columns] in the data file; its tensors are `name` and a suffix each."""

    name: str
    rows: int
    columns: int
    parts: int = 1  # matrices that it consists of, one below the other
    bits: int = 0  # of codes; 0: floats under the name itself, [columns, rows], of a vocabulary [rows, columns]
    block: int = BLOCK  # columns that share a scale
    super_block: int = 0  # columns whose scales have a factor in common; 0: there are no factors
    has_offset: bool = False
    is_table: bool = False
    is_bfloat: bool = False  # in 16 bits: bfloat16, else float16
    in_turn: bool = False  # its parts do not lie one below the other: GROUP rows of each follow in turn

    @property
    def is_halves(self) -> bool:
        """A GGUF's own floats, in 16 bits."""
        return self.bits == Halves.bits

    @property
    def table(self) -> int:
        """As the operators of `kernels/` are told which of two kinds of codes these are."""
        return int(self.is_table or self.is_bfloat)

    @property
    def tensors(self) -> list[str]:
        """What the operators of `kernels/` find behind its name."""
        if self.is_halves:
            return ["codes"]
        factors = ["factors"] if self.super_block else []
        return ["codes", "scale", *factors, *(["offset", *(f"offset_{name}" for name in factors)] * self.has_offset)]


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
        """The matrices, those that are neighbours and held alike as one, one below the other."""
        return self._together(names, weaves=False)

    def pair(self, first: str, second: str) -> list[Stored]:
        """Two matrices of one shape, as one where they are held alike: of codes that fill groups of rows it has a group
        of each in turn, so that who multiplies with both at once reads on through memory."""
        return self._together((first, second), weaves=True)

    def _together(self, names: Sequence[str], weaves: bool) -> list[Stored]:
        key = "+".join(names)
        if key not in self._stored:
            parts = [(name, self._weight(name)) for name in names]
            alike = [list(group) for _, group in groupby(parts, key=lambda part: _form(part[1]))]
            self._stored[key] = [
                self._store(
                    "+".join(name for name, _ in group),
                    [weight for _, weight in group],
                    weaves and len(group) == len(names) and _fills_groups(group[0][1]),
                )
                for group in alike
            ]
        return self._stored[key]

    def vocabulary(self, name: str) -> Stored:
        """The embedding or the head, [V, hidden]: looked up by rows, or multiplied with."""
        if name not in self._stored:
            weight = self._weight(name)
            if isinstance(weight, np.ndarray):
                self.file.tensor(name, weight)
                self._stored[name] = [Stored(name, *weight.shape)]
            else:
                self._stored[name] = [self._store(name, [weight])]
        return self._stored[name][0]

    def step_bytes(self, vocab: int, tied: bool) -> int:
        """Of what is stored, the bytes that one step reads: all, but of an embedding that is no head one row."""
        embedding = sum(size for name, size in self.file.sizes.items() if name.split(".")[0] == "embedding")
        return sum(self.file.sizes.values()) - (0 if tied else embedding - embedding // vocab)

    def _weight(self, name: str) -> np.ndarray | Blocks | Halves:
        weight = self._weights(name)
        assert not isinstance(weight, Palette), "palettes are Core ML's, and refused before anything is written"
        return weight

    def _store(self, name: str, parts: Sequence[np.ndarray | Blocks | Halves], woven: bool = False) -> Stored:
        """Parts of one form; `woven`: in turn."""
        if blocks := [part for part in parts if isinstance(part, Blocks)]:
            stored = self._store_blocks(name, in_turn(blocks, GROUP) if woven else stacked(blocks))
        elif halves := [part for part in parts if isinstance(part, Halves)]:
            stored = self._store_halves(name, in_turn(halves, GROUP) if woven else stacked(halves))
        else:
            weight = np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
            self.file.tensor(name, weight.T)
            stored = Stored(name, *weight.shape)
        return replace(stored, parts=len(parts), in_turn=woven)

    def _store_halves(self, name: str, whole: Halves) -> Stored:
        """In two tensors of the same bytes: as the kernels take them, and as floats [N / 16, K / 2, 16, 2]."""
        codes = laid_out(whole)["codes"]
        self.file.tensor(f"{name}.codes", codes)
        kind = TensorProto.BFLOAT16 if whole.is_bfloat else TensorProto.FLOAT16
        self.file.same_bytes(f"{name}.floats", f"{name}.codes", kind, (*codes.shape[:-1], codes.shape[-1] // 2))
        return Stored(name, *whole.shape, bits=whole.bits, is_bfloat=whole.is_bfloat)

    def _store_blocks(self, name: str, whole: Blocks) -> Stored:
        for suffix, array in laid_out(whole).items():
            self.file.tensor(f"{name}.{suffix}", array)
        return Stored(
            name, *whole.shape, bits=whole.bits, block=whole.block,
            super_block=SUPER_BLOCK if whole.factors is not None else 0,
            has_offset=whole.offset is not None, is_table=whole.is_table,
        )  # fmt: skip


def by_matrix(stored: Sequence[Stored], parts: Sequence[T]) -> list[tuple[Stored, Sequence[T]]]:
    """Each matrix with those of the parts, one for each that was asked for, that it consists of."""
    ends = list(accumulate(matrix.parts for matrix in stored))
    return [(matrix, parts[end - matrix.parts : end]) for matrix, end in zip(stored, ends, strict=True)]


def _fills_groups(weight: np.ndarray | Blocks | Halves) -> bool:
    """Of floats that are no GGUF's False: they lie in no groups."""
    return not isinstance(weight, np.ndarray) and weight.shape[0] % GROUP == 0


def _form(weight: np.ndarray | Blocks | Halves) -> tuple[object, ...]:
    """Of floats that are no GGUF's ()."""
    return () if isinstance(weight, np.ndarray) else weight.form
