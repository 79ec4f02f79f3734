"""Rows of a matrix that holds q, k and v of a layer, and in which dimensions of heads that turn in part are put.

Owns the two ways in which files order the heads of such a matrix. Knows no spelling of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from edgesink.export.families.spelling import turning_halves_apart
from edgesink.export.families.weights_of import Source
from edgesink.spec import ModelSpec

Places = Mapping[str, np.ndarray]
"""Of "q", "k" and "v": which heads of the fused matrix are its own, int64 [heads]."""


def side_by_side(model: ModelSpec) -> Places:
    """All heads of q, then those of k, then those of v."""
    q, k, v = np.split(np.arange(model.heads + 2 * model.kv_heads), [model.heads, model.heads + model.kv_heads])
    return {"q": q, "k": k, "v": v}


def grouped(model: ModelSpec) -> Places:
    """For each head of k, the heads of q that share it, itself, and its head of v."""
    groups = np.arange(model.heads + 2 * model.kv_heads).reshape(model.kv_heads, -1)
    return {"q": groups[:, :-2].reshape(-1), "k": groups[:, -2], "v": groups[:, -1]}


def from_fused(source: Source, weight: str, model: ModelSpec, order: Callable[[ModelSpec], Places]) -> Source:
    """The source of a weight, the rows of q, k and v, and of their biases, taken out of the fused tensor."""
    part = weight.rpartition(".")[2].removesuffix("_bias")
    if part not in ("q", "k", "v"):
        return source
    heads = (model.heads + 2 * model.kv_heads) * model.head_dim
    rows = rows_of_heads(model, part, order(model)[part])
    return replace(source, shape=(heads, *source.shape[1:]), rows=rows)


def turned_in_part(source: Source, weight: str, model: ModelSpec) -> Source:
    """The source of a weight, the turning pairs of q and k of each head brought to (i, i + D/2)."""
    part = weight.rpartition(".")[2].removesuffix("_bias")
    if part not in ("q", "k"):
        return source
    count = model.heads if part == "q" else model.kv_heads
    return replace(source, rows=rows_of_heads(model, part, np.arange(count)))


def rows_of_heads(model: ModelSpec, part: str, heads: np.ndarray) -> np.ndarray:
    """The rows of these heads, int64 [heads D], a head's turning pairs brought to (i, i + D/2) but in v."""
    D, turning = model.head_dim, 2 * sum(map(bool, model.views[0].rotary.frequencies))
    dimensions = np.arange(D) if part == "v" else turning_halves_apart(D, turning)
    rows: np.ndarray = (heads[:, None] * D + dimensions).reshape(-1)
    return rows
