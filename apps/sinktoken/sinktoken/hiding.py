"""What a model loses when tokens are hidden from those behind them: which attention matters, and which is a habit.

Owns the masked forward passes. A hidden token still sees itself, and its own target is still scored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

HIDDEN = -1e9  # added to a score
SEED = 0


def perplexities_without(model: Any, ids: np.ndarray, favourite: int) -> dict[str, float]:
    """Perplexity of the second half of pieces int64 [B, n], by what is hidden.

    "others": as many tokens as the favourite has, drawn at random. The first token is hidden by itself alone.
    """
    later = np.arange(ids.shape[1]) > 0
    favourites = (ids == favourite) & later
    others = (np.random.default_rng(SEED).random(ids.shape) < favourites.mean()) & later
    hidden = {"none": ids < 0, "first": (ids >= 0) & ~later, "favourite": favourites, "others": others}
    return {name: perplexity_without(model, ids, which) for name, which in hidden.items()}


@torch.no_grad()
def perplexity_without(model: Any, ids: np.ndarray, hidden: np.ndarray) -> float:
    """Perplexity of the second half of pieces int64 [B, n] when tokens bool [B, n] are hidden from later ones."""
    n = ids.shape[1]
    tokens = torch.from_numpy(ids)
    logits = model(tokens, attention_mask=_mask(torch.from_numpy(hidden)), use_cache=False).logits  # [B, n, V]
    nats = cross_entropy(logits[:, n // 2 : -1].flatten(0, 1), tokens[:, n // 2 + 1 :].flatten())
    return float(nats.exp())


def _mask(hidden: Tensor) -> Tensor:
    """What is added to scores, float32 [B, 1, n, n], for tokens bool [B, n] that only themselves see."""
    n = hidden.shape[1]
    unseen = torch.ones(n, n, dtype=torch.bool).triu(1) | (hidden[:, None, None] & ~torch.eye(n, dtype=torch.bool))
    return torch.zeros(unseen.shape).masked_fill(unseen, HIDDEN)
