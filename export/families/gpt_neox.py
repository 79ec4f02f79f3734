"""GPT-NeoX, and Pythia: LayerNorm, an MLP without a gate, biases; attention and MLP side by side, or in turn.

q, k and v are one matrix, head by head; a quarter of each head turns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgesink.export.families.decoder import Names, decoder_of_config, decoder_of_gguf, with_layer_norms
from edgesink.export.families.fields import Fields
from edgesink.export.families.fused import from_fused, grouped, side_by_side
from edgesink.export.families.rope import partial_rotary_of_gguf, rope_fields, rotary_of, turning_dimensions
from edgesink.export.families.spelling import GGUF, fused_layer, gguf_source, hub_source
from edgesink.export.families.weights_of import BIASES, MLP_BIASES, Source, Tensors, with_weights, without_weights
from edgesink.spec import ModelSpec, Rotary

THETA, SHARE = 10000.0, 0.25  # where a config.json does not say them
NAMES = Names(kv_heads=None, head_dim=None, norm_eps="layer_norm_eps")
MASKED = -1e9
MOST_MASKED = 4096  # tokens of a mask that is read; it has their square
HUB: Mapping[str, str] = {
    "embedding": "gpt_neox.embed_in.weight",
    "norm": "gpt_neox.final_layer_norm.weight",
    "norm_bias": "gpt_neox.final_layer_norm.bias",
    "head": "embed_out.weight",
    **fused_layer("attention"),
}
IN_GGUF = {**GGUF, **dict.fromkeys("qkv", "attn_qkv.weight"), **dict.fromkeys(BIASES, "attn_qkv.bias")}


def of_config(config: Fields, name: str) -> ModelSpec:
    """The share of a head that turns, and its theta, have names of their own."""

    def rotary(config: Fields, context: int, head_dim: int) -> Rotary:
        rope = rope_fields(config, "rotary_emb_base")
        dimensions = turning_dimensions(config, rope, head_dim, "rotary_pct", SHARE)
        return rotary_of(rope, config.number("rotary_emb_base", THETA), context, head_dim, dimensions)

    model = decoder_of_config(config, name, NAMES, rotary)
    return decoder(model, config.flag("use_parallel_residual"), config.flag("attention_bias"))


def of_gguf(fields: Fields, name: str, tensors: Tensors) -> ModelSpec:
    """The file does not name the activation: Pythia's is taken."""
    eps = "attention.layer_norm_epsilon"
    model = decoder_of_gguf(fields, name, tensors, "gpt_neox", partial_rotary_of_gguf, eps)
    return decoder(replace(model, activation="gelu"), fields.flag("use_parallel_residual"), True)


def decoder(model: ModelSpec, parallel: bool, attention_bias: bool) -> ModelSpec:
    """The decoder with what is GPT-NeoX's own."""
    biases = (*BIASES, "o_bias") if attention_bias else ()
    model = with_weights(without_weights(model, "gate"), *MLP_BIASES, *biases)
    return replace(with_layer_norms(model), parallel=parallel)


def hub(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a folder: of the fused matrix, each head has its rows of q, k and v together."""
    return from_fused(hub_source(weight, model, HUB, "gpt_neox.layers"), weight, model, grouped)


def gguf(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a GGUF: all rows of q, then those of k, then those of v."""
    return from_fused(gguf_source(weight, model, IN_GGUF), weight, model, side_by_side)


def hub_derived(key: str, model: ModelSpec) -> np.ndarray | None:
    """Old checkpoints hold the causal mask, the number that it masks with, and the RoPE frequencies of each layer."""
    found = re.fullmatch(r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)", key)
    if not found:
        return None
    if found[1] == "bias":
        return np.tri(model.context)[None, None] if model.context <= MOST_MASKED else None
    return np.array(MASKED if found[1] == "masked_bias" else [f for f in model.views[0].rotary.frequencies if f])
