"""Llama, all versions: the decoder that the others are told by."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from edgesink.export.families.decoder import decoder_of_config, decoder_of_gguf
from edgesink.export.families.fields import Fields
from edgesink.export.families.layers import alike
from edgesink.export.families.weights_of import Tensors
from edgesink.spec import ModelSpec


def of_config(config: Fields, name: str) -> ModelSpec:
    """transformers' Llama sees everything: a field of a window is left unread, and refused.

    `softmax_off_by_one` is a field of our own, which models trained with a zero sink carry (apps/sinktoken).
    """
    model = replace(decoder_of_config(config, name), off_by_one=config.flag("softmax_off_by_one", False))
    return alike(config, model, None)


def hub_derived(key: str, model: ModelSpec) -> np.ndarray | None:
    """Old checkpoints hold the RoPE frequencies of each layer; transformers computes them anew, and so do we."""
    if re.fullmatch(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", key):
        return np.array(model.views[0].rotary.frequencies)
    return None


def of_gguf(fields: Fields, name: str, tensors: Tensors) -> ModelSpec:
    """llama.cpp calls Mistral "llama" too."""
    return decoder_of_gguf(fields, name, tensors, "llama")
