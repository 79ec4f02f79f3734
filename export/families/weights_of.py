"""The decoder's weights: their names, their shapes, and where a family finds each in a file.

Owns our own spelling of weights ("layers.3.q"). Knows no spelling of a file: that is a family's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgesink.spec import ModelSpec

LAYER_WEIGHTS = ("attention_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down")
"""Weights of `layers.{i}.`; beside them stand `embedding`, `norm` and `head`."""

Shapes = Mapping[str, tuple[int, ...]]
"""The tensors of a file: name -> shape, [out, in] or [n]."""


@dataclass(frozen=True)
class Source:
    """Where a weight comes from."""

    key: str  # the tensor, as the file spells it
    shape: tuple[int, ...]  # that the tensor must have, [out, in] or [n]
    rows: np.ndarray | None = None  # int64 [out]: its rows in the decoder's order; None as they stand


def weight_shape(model: ModelSpec, weight: str) -> tuple[int, ...]:
    """The shape that the architecture gives a weight, [out, in]."""
    hidden, inner = model.hidden, model.intermediate
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (model.vocab, hidden),
        "head": (model.vocab, hidden),
        "norm": (hidden,),
        "attention_norm": (hidden,),
        "mlp_norm": (hidden,),
        "q": (queries, hidden),
        "k": (keys, hidden),
        "v": (keys, hidden),
        "o": (hidden, queries),
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "down": (hidden, inner),
    }
    return shapes[weight.rpartition(".")[2]]


def weight_names(model: ModelSpec) -> list[str]:
    """Every weight of the model, in the order in which the decoder meets them."""
    layers = [f"layers.{layer}.{name}" for layer in range(model.layers) for name in LAYER_WEIGHTS]
    return ["embedding", *layers, "norm", *([] if model.tied else ["head"])]
