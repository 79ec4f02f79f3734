"""Mistral: the decoder of Llama; the first releases see a sliding window only."""

from __future__ import annotations

from edgesink.export.families.decoder import decoder_of_config
from edgesink.export.families.fields import Fields
from edgesink.export.families.layers import alike
from edgesink.spec import ModelSpec


def of_config(config: Fields, name: str) -> ModelSpec:
    """Every layer has the window: 4096 where config.json is silent, as transformers fills in, and null is none."""
    return alike(config, decoder_of_config(config, name), config.count_or_none("sliding_window"))
