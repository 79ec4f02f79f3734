"""Gemma 3: four norms a layer, norms of queries and keys, most layers with a short window and a rotary base of its own.

The embedding is multiplied by the root of the hidden size. Instead, the residual stream is held divided by it, and the
norms behind attention and MLP take the division along: nothing is multiplied in the graph, and numbers stay smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgesink.export.families.decoder import MOST_DIMENSIONS, Names, decoder_of_config, decoder_of_gguf
from edgesink.export.families.fields import Fields
from edgesink.export.families.frequencies import held, plain
from edgesink.export.families.layers import FULL, SLIDING, kinds_of_layers, sliding_but_every, with_layers
from edgesink.export.families.rope import rotaries_of_kinds
from edgesink.export.families.spelling import HUB_POST_NORMS, gguf_source, hub_source
from edgesink.export.families.weights_of import POST_NORMS, QK_NORMS, Source, Tensors, with_weights
from edgesink.spec import ModelSpec, Rotary, View

PATTERN = 6  # the last of so many layers sees everything
THETAS = {FULL: "rope_theta", SLIDING: "rope_local_base_freq"}
LOCAL_THETA = 10000.0
GGUF_27B = 62  # layers of the one size whose scale is not that of its heads; llama.cpp knows it so too


def of_config(config: Fields, name: str) -> ModelSpec:
    """Layers by `layer_types`, or every sixth sees all; soft caps are left unread, and refused."""
    context, head_dim = config.count("max_position_embeddings"), config.count("head_dim", most=MOST_DIMENSIONS)
    rotary = rotaries_of_kinds(config, THETAS, context, head_dim)
    model = decoder_of_config(config, name, Names(activation="hidden_activation"), lambda *sizes: rotary[FULL])
    pattern = config.count("sliding_window_pattern", PATTERN)
    kinds = kinds_of_layers(config, sliding_but_every(pattern, model.layers))
    config.get("_sliding_window_pattern")  # transformers notes it so, and reads it never
    window = config.count("sliding_window") if SLIDING in kinds else None
    scale = config.count("query_pre_attn_scalar") ** -0.5
    return decoder(model, rotary[SLIDING], kinds, window, scale)


def of_gguf(fields: Fields, name: str, tensors: Tensors) -> ModelSpec:
    """The pattern, the window's rotary base and the scale are in llama.cpp's code; a newer file may have the base."""
    model = decoder_of_gguf(fields, name, tensors, "gemma3_text")
    local = plain(fields.number("rope.freq_base_swa", LOCAL_THETA), model.head_dim)
    kinds = sliding_but_every(PATTERN, model.layers)
    scale = model.scale if model.layers != GGUF_27B else (model.hidden / model.heads) ** -0.5
    model = replace(model, activation="gelu_tanh")
    rotary = Rotary(held(local, model.head_dim // 2))
    return decoder(model, rotary, kinds, fields.count("attention.sliding_window"), scale)


def decoder(
    model: ModelSpec,
    local: Rotary,
    kinds: Sequence[str],
    window: int | None,
    scale: float,
    norms: Sequence[str] = (*QK_NORMS, *POST_NORMS),
) -> ModelSpec:
    """The decoder with what is Gemma's own; `local` and `window` are of the layers that slide."""
    views = {FULL: model.views[0], SLIDING: View(local, window)}
    model = with_layers(with_weights(model, *norms), [views[kind] for kind in kinds])
    return replace(model, scale=scale, stream_scale=float(np.float32(model.hidden**0.5)))


def hub(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a folder, whose norms are 1 + w."""
    source = hub_source(weight, model, HUB_POST_NORMS)
    return with_norms_folded(replace(source, plus=1.0) if "norm" in weight else source, weight, model)


def gguf(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a GGUF, whose norms are whole."""
    return with_norms_folded(gguf_source(weight, model), weight, model)


def with_norms_folded(source: Source, weight: str, model: ModelSpec) -> Source:
    """What is added to the residual stream is divided as the stream is."""
    post = weight.endswith(POST_NORMS)
    return replace(source, times=1 / model.stream_scale) if post else source
