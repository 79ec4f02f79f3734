"""Ministral 3: the decoder of Mistral with YaRN, its queries scaled by their position.

The scale, 1 + beta log(1 + floor(position / original context)), is 1 within the original context, where positions of a
stream stay: a larger capacity is refused.
"""

from __future__ import annotations

from dataclasses import replace

from edgesink.export.families.decoder import decoder_of_config
from edgesink.export.families.fields import Fields
from edgesink.export.families.layers import alike
from edgesink.export.families.rope import rope_fields, rotary_of
from edgesink.spec import ModelSpec


def of_config(config: Fields, name: str) -> ModelSpec:
    """What transformers fills in for RoPE parameters that are not there is left to a file that says it."""
    if not config.says("rope_parameters") and not config.says("rope_scaling"):
        raise config.error("rope_parameters", "the RoPE parameters")
    rope = rope_fields(config)
    context, theta = config.count("max_position_embeddings"), config.number("rope_theta")
    rope.get("max_position_embeddings")  # said once more, and used by nobody
    original = rope.count("original_max_position_embeddings", context)
    beta = 0.0 if rope.get("llama_4_scaling_beta") == 0 else rope.number("llama_4_scaling_beta")
    turning = lambda config, context, head_dim: rotary_of(rope, theta, context, head_dim)  # noqa: E731
    model = decoder_of_config(config, name, rotary_of=turning)
    model = alike(config, model, config.count_or_none("sliding_window"))
    return replace(model, static_context=original if beta else None)
