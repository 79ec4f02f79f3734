"""Where a model looks: attention averaged over pieces of a text, after the paper's figure 2.

Owns the averaging and the share of attention that the first token gets; PyTorch with transformers' eager attention
gives the weights. One batch of pieces is in memory at a time, and one [L, H, n, n] array of sums. Draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgesink.errors import BadOption

BATCH = 16  # pieces at once


@dataclass(frozen=True)
class LayerShare:
    """The share of attention (0 to 1) that later queries give the first token in one layer."""

    layer: int
    first: float  # mean over heads
    largest: float  # of the head that gives it the most
    last_query: float  # of the last query alone, mean over heads


def load_eager(checkpoint_path: Path) -> Any:
    """transformers' model with attention that can be looked at."""
    from edgesink.reference import load_model

    model = load_model(checkpoint_path)
    model.set_attn_implementation("eager")
    return model


def average_maps(model: Any, pieces: Iterable[np.ndarray]) -> np.ndarray:
    """Attention averaged over pieces (int64 [n] each, n the same): float64 [L, H, n, n], rows are queries."""
    import torch

    total: np.ndarray | None = None
    count = 0
    for batch in _batches(pieces):
        with torch.inference_mode():
            layers = model(torch.from_numpy(batch), use_cache=False, output_attentions=True).attentions
        summed = np.stack([layer.double().sum(0).numpy() for layer in layers])  # [L, H, n, n]
        total = summed if total is None else total + summed
        count += len(batch)
    if total is None:
        raise BadOption(
            "a text shorter than one sample", "at least one sample", "use a longer --text or a smaller --length"
        )
    averaged: np.ndarray = total / count
    return averaged


def first_token_shares(maps: np.ndarray) -> list[LayerShare]:
    """The share of attention on the first token by layer; `maps` as `average_maps` gives them."""
    later = maps[:, :, 1:, 0].mean(-1)  # [L, H]
    last = maps[:, :, -1, 0].mean(-1)  # [L]
    return [LayerShare(i, float(h.mean()), float(h.max()), float(last[i])) for i, h in enumerate(later)]


def uniform_share(length: int) -> float:
    """What the first token would get from queries 1 … length - 1 that attend uniformly."""
    return float(np.mean([1 / (query + 1) for query in range(1, length)]))


def _batches(pieces: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    batch: list[np.ndarray] = []
    for piece in pieces:
        batch.append(piece)
        if len(batch) == BATCH:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
