"""The decoder's weights: their names, their shapes, and where a family finds each in a file.

Owns our own spelling of weights: `embedding`, `norm`, `head`, and those of a layer, which `ModelSpec.weights` lists
("layers.3.q"). Knows no spelling of a file: that is a family's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from edgesink.spec import ModelSpec

Shapes = Mapping[str, tuple[int, ...]]
"""The tensors of a file: name -> shape, [out, in] or [n]."""

BIASES = ("q_bias", "k_bias", "v_bias")
QK_NORMS = ("q_norm", "k_norm")
WHOLE_NORMS = ("q_whole_norm", "k_whole_norm")  # of all heads together
POST_NORMS = ("post_attention_norm", "post_mlp_norm")
NORM_BIASES = ("attention_norm_bias", "mlp_norm_bias")
MLP_BIASES = ("up_bias", "down_bias")
LAYER = (
    "attention_norm", "attention_norm_bias", "q", "k", "v", *BIASES, *WHOLE_NORMS, *QK_NORMS, "o", "o_bias",
    "post_attention_norm",
    "mlp_norm", "mlp_norm_bias", "gate", "up", "up_bias", "down", "down_bias", "post_mlp_norm",
)  # fmt: skip
"""All that a layer may have, in the order in which the decoder meets it."""


class Tensors(Protocol):
    """The tensors of a file whose header is read: their shapes, and the values of small ones that shape the decoder."""

    shapes: Shapes

    def vector(self, key: str, length: int) -> np.ndarray | None:
        """float64 [length], None if there is none; BadCheckpoint if its shape is another. It counts as used."""


@dataclass(frozen=True)
class Source:
    """Where a weight comes from, and what is folded into it on the way: w = (tensor[rows] + plus) * times."""

    key: str  # the tensor, as the file spells it
    shape: tuple[int, ...]  # that the tensor must have, [out, in] or [n]
    rows: np.ndarray | None = None  # int64 [out]: its rows in the decoder's order; None as they stand
    plus: float = 0.0  # of vectors only: a matrix that is quantised is never rounded again
    times: float = 1.0  # likewise

    def __post_init__(self) -> None:
        assert len(self.shape) == 1 or (self.plus, self.times) == (0, 1), f"{self.key} is a matrix"

    def of(self, tensor: np.ndarray) -> np.ndarray:
        """The weight, float32, given the tensor."""
        weight = tensor if self.rows is None else tensor[self.rows]
        if (self.plus, self.times) == (0, 1):
            return weight
        folded: np.ndarray = (weight.astype(np.float64) + self.plus) * self.times
        return folded.astype(np.float32)

    def put(self, weight: np.ndarray, tensor: np.ndarray) -> None:
        """The way back: write the tensor's rows that give this weight; those of other weights stay."""
        rows = slice(None) if self.rows is None else self.rows
        tensor[rows] = weight if (self.plus, self.times) == (0, 1) else weight / self.times - self.plus


def with_weights(model: ModelSpec, *more: str) -> ModelSpec:
    """The decoder whose layers have these weights too."""
    return replace(model, weights=tuple(weight for weight in LAYER if weight in {*model.weights, *more}))


def without_weights(model: ModelSpec, *less: str) -> ModelSpec:
    """The decoder whose layers have not these weights."""
    return replace(model, weights=tuple(weight for weight in model.weights if weight not in less))


def weight_shape(model: ModelSpec, weight: str) -> tuple[int, ...]:
    """The shape that the architecture gives a weight: [out, in] of a matrix, [n] of a norm or a bias."""
    hidden, inner, D = model.hidden, model.intermediate, model.head_dim
    queries, keys = model.heads * D, model.kv_heads * D
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (model.vocab, hidden),
        "head": (model.vocab, hidden),
        "norm": (hidden,),
        "norm_bias": (hidden,),
        "attention_norm": (hidden,),
        "attention_norm_bias": (hidden,),
        "q": (queries, hidden),
        "k": (keys, hidden),
        "v": (keys, hidden),
        "q_bias": (queries,),
        "k_bias": (keys,),
        "v_bias": (keys,),
        "q_norm": (D,),
        "k_norm": (D,),
        "q_whole_norm": (queries,),
        "k_whole_norm": (keys,),
        "o": (hidden, queries),
        "o_bias": (hidden,),
        "post_attention_norm": (hidden,),
        "mlp_norm": (hidden,),
        "mlp_norm_bias": (hidden,),
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "up_bias": (inner,),
        "down": (hidden, inner),
        "down_bias": (hidden,),
        "post_mlp_norm": (hidden,),
    }
    return shapes[weight.rpartition(".")[2]]


def weight_names(model: ModelSpec) -> list[str]:
    """Every weight of the model, in the order in which the decoder meets them."""
    layers = [f"layers.{layer}.{name}" for layer in range(model.layers) for name in model.weights]
    last_norm = ["norm", "norm_bias"] if model.has_norm_bias else ["norm"]
    return ["embedding", *layers, *last_norm, *([] if model.tied else ["head"])]
