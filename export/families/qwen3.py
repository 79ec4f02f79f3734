"""Qwen 3: queries and keys of each head are normed before they turn."""

from __future__ import annotations

from edgesink.export.families.decoder import decoder_of_config, decoder_of_gguf
from edgesink.export.families.fields import Fields
from edgesink.export.families.layers import windowed
from edgesink.export.families.weights_of import QK_NORMS, Tensors, with_weights
from edgesink.spec import ModelSpec


def of_config(config: Fields, name: str) -> ModelSpec:
    """Windows are said as Qwen 2 says them."""
    return windowed(config, with_weights(decoder_of_config(config, name), *QK_NORMS))


def of_gguf(fields: Fields, name: str, tensors: Tensors) -> ModelSpec:
    """Rows of q and k as transformers has them."""
    return with_weights(decoder_of_gguf(fields, name, tensors, "qwen3"), *QK_NORMS)
