"""Weights as indices into small tables, the form that the Neural Engine takes: one table for a few rows.

Owns the rule that chooses a table (k-means in one dimension) and the numbers that it gives (`Palette`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROUNDS = 12  # of Lloyd's iteration; more change the error in the third digit


@dataclass(frozen=True)
class Palette:
    """A palettised matrix: w[n, k] = table[n // group, codes[n, k]]."""

    codes: np.ndarray  # uint8 [N, K], 0 … 2**bits - 1
    table: np.ndarray  # float32 [N / group, 2**bits], ascending
    bits: int  # 4, 6 or 8

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.codes.shape[1]

    def dequantized(self) -> np.ndarray:
        """float32 [N, K]."""
        group = len(self.codes) // len(self.table)
        return np.take_along_axis(np.repeat(self.table, group, axis=0), self.codes.astype(np.intp), axis=1)


def palettize(weight: np.ndarray, bits: int, group: int) -> Palette:
    """The palette of a float32 matrix [N, K], one table for `group` rows, or for each where they do not divide."""
    rows, columns = weight.shape
    group = group if rows % group == 0 else 1
    codes = np.empty((rows // group, group * columns), np.uint8)
    table = np.empty((rows // group, 1 << bits), np.float32)
    for index, values in enumerate(weight.reshape(rows // group, -1)):
        table[index] = _centres(values, 1 << bits)
        codes[index] = np.searchsorted(_borders(table[index]), values)
    return Palette(codes.reshape(rows, columns), table, bits)


def _centres(values: np.ndarray, count: int) -> np.ndarray:
    """k-means of numbers: on sorted values a cluster is a range, and its mean a difference of running sums."""
    ordered = np.sort(values).astype(np.float64)
    distinct = np.unique(ordered)
    if len(distinct) <= count:
        return np.pad(distinct, (0, count - len(distinct)), mode="edge")
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    low, high = ordered[0], ordered[-1]
    centres = (np.quantile(ordered, (np.arange(count) + 0.5) / count) + np.linspace(low, high, count)) / 2
    for _ in range(ROUNDS):
        edges = np.concatenate([[0], np.searchsorted(ordered, _borders(centres)), [len(ordered)]])
        counts = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(counts, 1)
        centres = np.maximum.accumulate(np.where(counts > 0, means, centres))
    return centres


def _borders(centres: np.ndarray) -> np.ndarray:
    return (centres[1:] + centres[:-1]) / 2
