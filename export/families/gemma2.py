"""Gemma 2: Gemma 3 with soft caps on scores and logits and without norms of queries and keys; half the layers slide."""

from __future__ import annotations

from dataclasses import replace

from edgesink.export.families.decoder import Names, decoder_of_config, decoder_of_gguf
from edgesink.export.families.fields import Fields
from edgesink.export.families.gemma3 import decoder
from edgesink.export.families.layers import SLIDING, kinds_of_layers, sliding_but_every
from edgesink.export.families.weights_of import POST_NORMS, Tensors
from edgesink.spec import ModelSpec

PATTERN = 2  # the last of so many layers sees everything
TWICE = {"hidden_act": "hidden_activation", "sliding_window_size": "sliding_window"}  # said twice in the first releases
GGUF_27B = 46  # layers of the one size whose scale is not that of its heads; llama.cpp knows it so too
GGUF_WINDOW, GGUF_SCORE_CAP, GGUF_LOGITS_CAP = 4096, 50.0, 30.0  # llama.cpp's, where a file is silent


def of_config(config: Fields, name: str) -> ModelSpec:
    """Layers by `layer_types`, or every second sees all. A cap may be null."""
    for second, first in TWICE.items():
        if config.says(second) and config.get(second) != config.get(first):
            raise config.error(second, f"{config.get(first)!r}, as {first} says")
    model = decoder_of_config(config, name, Names(activation="hidden_activation"))
    kinds = kinds_of_layers(config, sliding_but_every(PATTERN, model.layers))
    window = config.count("sliding_window") if SLIDING in kinds else None
    scale = config.count("query_pre_attn_scalar") ** -0.5
    model = decoder(model, model.views[0].rotary, kinds, window, scale, POST_NORMS)
    caps = (config.float_or_none(cap) for cap in ("attn_logit_softcapping", "final_logit_softcapping"))
    return capped(model, *caps)


def of_gguf(fields: Fields, name: str, tensors: Tensors) -> ModelSpec:
    """The pattern and the scale are in llama.cpp's code."""
    model = replace(decoder_of_gguf(fields, name, tensors, "gemma2"), activation="gelu_tanh")
    scale = model.scale if model.layers != GGUF_27B else (model.hidden / model.heads) ** -0.5
    window = fields.count("attention.sliding_window", GGUF_WINDOW)
    kinds = sliding_but_every(PATTERN, model.layers)
    return capped(
        decoder(model, model.views[0].rotary, kinds, window, scale, POST_NORMS),
        fields.number("attn_logit_softcapping", GGUF_SCORE_CAP),
        fields.number("final_logit_softcapping", GGUF_LOGITS_CAP),
    )


def capped(model: ModelSpec, scores: float | None, logits: float | None) -> ModelSpec:
    """The decoder with its soft caps."""
    return replace(model, score_cap=scores, logits_cap=logits)
