"""Qwen 2 and 2.5: biases of q, k and v."""

from __future__ import annotations

from edgesink.export.families.decoder import decoder_of_config, decoder_of_gguf
from edgesink.export.families.fields import Fields
from edgesink.export.families.layers import windowed
from edgesink.export.families.weights_of import BIASES, Tensors, with_weights
from edgesink.spec import ModelSpec


def of_config(config: Fields, name: str) -> ModelSpec:
    """The biases are there always: no field says so."""
    return windowed(config, with_weights(decoder_of_config(config, name), *BIASES))


def of_gguf(fields: Fields, name: str, tensors: Tensors) -> ModelSpec:
    """Rows of q and k as transformers has them."""
    return with_weights(decoder_of_gguf(fields, name, tensors, "qwen2"), *BIASES)
