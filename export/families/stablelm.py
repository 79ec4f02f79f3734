"""StableLM: Llama's decoder with LayerNorm, and heads of which a quarter turns; attention and MLP in turn or together.

Where they are computed together, the MLP shares attention's norm.
"""

from __future__ import annotations

from dataclasses import replace

from edgesink.export.families.decoder import Names, decoder_of_config, decoder_of_gguf, with_layer_norms
from edgesink.export.families.fields import Fields
from edgesink.export.families.fused import turned_in_part
from edgesink.export.families.rope import partial_rotary_of_gguf, rope_fields, rotary_of, turning_dimensions
from edgesink.export.families.spelling import GGUF, gguf_source, hub_source
from edgesink.export.families.weights_of import BIASES, Source, Tensors, with_weights, without_weights
from edgesink.spec import ModelSpec, Rotary

SHARE = 0.25  # of a head that turns, where a config.json does not say it
NAMES = Names(head_dim=None, norm_eps="layer_norm_eps")


def of_config(config: Fields, name: str) -> ModelSpec:
    """A norm for each head of q and k (`qk_layernorm`) is left unread, and refused."""

    def rotary(config: Fields, context: int, head_dim: int) -> Rotary:
        rope = rope_fields(config)
        dimensions = turning_dimensions(config, rope, head_dim, default=SHARE)
        return rotary_of(rope, config.number("rope_theta"), context, head_dim, dimensions)

    model = decoder_of_config(config, name, NAMES, rotary)
    model = with_weights(model, *BIASES) if config.flag("use_qkv_bias") else model
    return decoder(model, config.flag("use_parallel_residual"))


def of_gguf(fields: Fields, name: str, tensors: Tensors) -> ModelSpec:
    """The second norm says whether attention and MLP are in turn: llama.cpp's converter may set the flag wrongly."""
    eps = "attention.layer_norm_epsilon"
    model = decoder_of_gguf(fields, name, tensors, "stablelm", partial_rotary_of_gguf, eps)
    fields.flag("use_parallel_residual", True)
    return decoder(model, f"blk.0.{GGUF['mlp_norm']}" not in tensors.shapes)


def decoder(model: ModelSpec, parallel: bool) -> ModelSpec:
    """The decoder with what is StableLM's own."""
    model = replace(with_layer_norms(model), parallel=parallel)
    return without_weights(model, "mlp_norm", "mlp_norm_bias") if parallel else model


def hub(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a folder."""
    return turned_in_part(hub_source(weight, model), weight, model)


def gguf(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a GGUF."""
    return turned_in_part(gguf_source(weight, model), weight, model)
