"""Seed-OSS: Llama's decoder with biases of q, k and v, and heads whose size is told."""

from __future__ import annotations

from edgesink.export.families.decoder import decoder_of_config
from edgesink.export.families.fields import Fields
from edgesink.export.families.weights_of import BIASES, with_weights
from edgesink.spec import ModelSpec


def of_config(config: Fields, name: str) -> ModelSpec:
    """A bias of attention's output or of the MLP is refused; dropout is for training."""
    config.get("residual_dropout")
    if config.flag("attention_out_bias"):
        raise config.error("attention_out_bias", "false", "a bias of attention's output")
    model = decoder_of_config(config, name)
    return with_weights(model, *BIASES) if config.flag("attention_bias") else model
