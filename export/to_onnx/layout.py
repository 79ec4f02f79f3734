"""How blocks lie in the data file: sixteen rows side by side, as `kernels/` reads them.

Owns the order of bytes. A lane of a vector is a row, so what the kernels read lies in one piece and nothing is summed
across lanes. For a block of 32 columns a row has `bits` words of four bytes:
- 8 bits: byte c of word i is column 4 i + c.
- fewer: byte c of words 0 to 3 is column 4 i + c in its low nibble and column 16 + 4 i + c in its high one.
- 5 bits: bit i of byte c of one more word is the highest of column 4 i + c.
- 6 bits: bits 2 j and 2 j + 1 of byte c of two more words h are the highest of column 16 h + 4 j + c.
- 16 bits: word i is columns 2 i and 2 i + 1, floats as a GGUF holds them.
"""

from __future__ import annotations

import numpy as np

from edgesink.export.blocks import BLOCK, Blocks
from edgesink.export.halves import Halves

GROUP = 16  # rows side by side
WORD = 4  # bytes


def laid_out(weight: Blocks | Halves) -> dict[str, np.ndarray]:
    """The tensors of a matrix, by what they are called behind its name: those that it has of

    codes uint8 [N / 16, K / 32 * bits, 16, 4]; scale, offset float16 and factors, offset_factors int8, each
    [N / 16, as many as a row has, 16]. Rows are filled up with zeros.
    """
    others = {name: array for name, array in weight.arrays().items() if name != "codes"}
    return {"codes": side_by_side(words(weight.codes, weight.bits)), **{k: side_by_side(v) for k, v in others.items()}}


def words(codes: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [N, K], of 16 bits [N, 2 K] -> [N, K / 32 * bits, 4]."""
    if bits == Halves.bits:
        return codes.reshape(len(codes), -1, WORD)
    rows, columns = codes.shape
    blocks = codes.reshape(rows, columns // BLOCK, BLOCK)
    if bits == 8:
        return blocks.reshape(rows, -1, WORD)
    low = blocks & 15
    parts: list[np.ndarray] = [low[..., :16] | low[..., 16:] << 4]
    if bits == 5:
        parts.append(
            np.packbits((blocks >> 4).reshape(*blocks.shape[:2], 8, WORD), axis=2, bitorder="little")[..., 0, :]
        )
    if bits == 6:
        high = (blocks >> 4).reshape(*blocks.shape[:2], 2, 4, WORD) << np.array([0, 2, 4, 6], np.uint8)[:, None]
        parts.append(np.bitwise_or.reduce(high, axis=3).reshape(*blocks.shape[:2], 2 * WORD))
    return np.concatenate(parts, axis=-1).reshape(rows, -1, WORD)


def side_by_side(rows: np.ndarray) -> np.ndarray:
    """[N, M, …] -> [N / 16, M, 16, …]."""
    filled = np.pad(rows, [(0, -len(rows) % GROUP), *[(0, 0)] * (rows.ndim - 1)])
    return np.ascontiguousarray(filled.reshape(-1, GROUP, *rows.shape[1:]).swapaxes(1, 2))
