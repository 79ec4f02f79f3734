"""Where a trained model looks: shares of attention by layer, averaged over pieces of the held-out text.

Owns the numbers that tell a sink from a habit: how much attention the first token gets, how much falls on the query's
own token and the one before, how much on nothing, and which token of the vocabulary is looked at for its own sake.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from edgesink.evaluate.attention_maps import average_maps
from edgesink.evaluate.checkpoint_text import pieces_of
from edgesink.export.checkpoint import open_checkpoint
from edgesink.reference import load_model
from sinktoken.hiding import perplexities_without

FIRST_QUERY = 16  # later queries are averaged: an early one sees few tokens, and so much of the first
PIECES = 128


@dataclass(frozen=True)
class Shares:
    """Shares of attention (0 to 1) of later queries in one layer, means over heads unless they say otherwise."""

    first: float  # on the first token
    own: float  # on the query's own token
    previous: float  # on the one before
    nothing: float  # on the row of zeros, which only a softmax off by one has
    favourite: str  # the token that one head gives the most, wherever it stands but in front
    favourite_share: float  # of that head's attention
    favourite_frequency: float  # of the text


def load_looking(folder: Path) -> Any:
    """The model with an attention that tells its weights."""
    model = load_model(folder)
    if not open_checkpoint(folder).model.off_by_one:
        model.set_attn_implementation("eager")
    return model


def pieces(folder: Path, text: Path, length: int) -> np.ndarray:
    """Pieces of the text as the model reads it: int64 [n, length]."""
    return np.stack(list(islice(pieces_of(folder, [text], length), PIECES)))


@dataclass(frozen=True)
class Looks:
    """Where a model looks, and what that is good for."""

    layers: list[Shares]
    hidden: dict[str, float]  # perplexity when tokens are hidden: see `hiding`; the favourite is that of all layers


def look(folder: Path, text: Path, length: int) -> Looks:
    """The looks of the model in `folder` at pieces of the text."""
    model, ids = load_looking(folder), pieces(folder, text, length)
    favourites = [favourite(ids, layer) for layer in token_shares(model, ids)]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    layers = [
        shares(layer, tokenizer.id_to_token(token), share, float((ids == token).mean()))
        for layer, (token, share) in zip(average_maps(model, ids), favourites, strict=True)
    ]
    strongest = max(favourites, key=lambda found: found[1])[0]
    return Looks(layers, perplexities_without(model, ids, strongest))


def shares(heads: np.ndarray, favourite: str, favourite_share: float, frequency: float) -> Shares:
    """Those of one layer, of its maps [H, n, n] averaged over pieces."""
    return Shares(
        first=float(heads[:, FIRST_QUERY:, 0].mean()),
        own=float(heads.diagonal(0, 1, 2)[:, FIRST_QUERY:].mean()),
        previous=float(heads.diagonal(-1, 1, 2)[:, FIRST_QUERY - 1 :].mean()),
        nothing=float(1 - heads[:, FIRST_QUERY:].sum(-1).mean()),
        favourite=favourite,
        favourite_share=favourite_share,
        favourite_frequency=frequency,
    )


@torch.no_grad()
def token_shares(model: Any, ids: np.ndarray) -> list[np.ndarray]:
    """The share of each head's attention that falls on each token of the vocabulary: float64 [H, V] a layer.

    The first token of a piece is left out: what it gets, it gets for its place.
    """
    layers = model(torch.from_numpy(ids), use_cache=False, output_attentions=True).attentions  # [B, H, n, n] each
    received = [layer[:, :, FIRST_QUERY:].double().mean(2).numpy() for layer in layers]  # [B, H, n]
    count = model.config.vocab_size
    return [
        np.stack([np.bincount(ids[:, 1:].ravel(), head[:, 1:].ravel(), count) for head in layer.swapaxes(0, 1)])
        / len(ids)
        for layer in received
    ]


def favourite(ids: np.ndarray, by_token: np.ndarray) -> tuple[int, float]:
    """The token that a head gives the most attention beyond its frequency, and that head's share: of [H, V]."""
    frequency = np.bincount(ids.ravel(), minlength=by_token.shape[1]) / ids.size
    head, token = np.unravel_index((by_token - frequency).argmax(), by_token.shape)
    return int(token), float(by_token[head, token])
