"""MPT: LayerNorm without biases, an MLP without a gate, and ALiBi: no positions, but slopes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgesink.export.families.decoder import Names, decoder_of_config
from edgesink.export.families.fields import Fields
from edgesink.export.families.fused import from_fused, side_by_side
from edgesink.export.families.layers import with_layers
from edgesink.export.families.spelling import hub_source
from edgesink.export.families.weights_of import Source, without_weights
from edgesink.spec import ModelSpec, Rotary, View

NAMES = Names("d_model", "n_layers", "n_heads", None, None, None, "max_seq_len", "layer_norm_epsilon", None)
ATTENTION: Mapping[str, Any] = {
    "attn_type": "multihead_attention", "attn_impl": "torch", "clip_qkv": None, "softmax_scale": None,
    "prefix_lm": False, "qk_ln": False, "attn_uses_sequence_id": False, "alibi": True, "alibi_bias_max": 8,
}  # fmt: skip
"""What counts where `attn_config` is silent."""
IMPLEMENTATIONS = ("torch", "flash", "triton")  # of one and the same attention
NORMS = ("low_precision_layernorm", "layernorm")  # LayerNorm both
OWN_CODE: Mapping[str, str] = {
    "AutoConfig": "configuration_mpt.MPTConfig",
    "AutoModelForCausalLM": "modeling_mpt.MPTForCausalLM",
}
BIAS_MAX = 8  # the last head's slope is 2 ** -8
HUB: Mapping[str, str] = {
    "embedding": "transformer.wte.weight",
    "norm": "transformer.norm_f.weight",
    "head": "lm_head.weight",
    "attention_norm": "norm_1.weight",
    **dict.fromkeys("qkv", "attn.Wqkv.weight"),
    "o": "attn.out_proj.weight",
    "mlp_norm": "norm_2.weight",
    "up": "ffn.up_proj.weight",
    "down": "ffn.down_proj.weight",
}


def of_config(config: Fields, name: str) -> ModelSpec:
    """What transformers' MPT does not compute is refused: it takes no notice of most fields.

    Nor does it go beyond `max_seq_len`, so that nothing there could be verified.
    """
    code = config.section("auto_map")
    if any(code[what] != OWN_CODE.get(what) for what in code):
        raise config.error("auto_map", f"{OWN_CODE} or less")
    if not config.flag("no_bias"):
        raise config.error("no_bias", "true", "biases, which transformers' MPT has not")
    if config.count("expansion_ratio") != 4:
        raise config.error("expansion_ratio", "4")
    config.one_of("norm_type", NORMS)
    config.flag("learned_pos_emb")  # there are none where there is ALiBi
    model = without_weights(decoder_of_config(config, name, NAMES, no_rotary), "gate")
    model = replace(model, activation="gelu", norm_kind="layer", static_context=model.context)
    return attending(model, config.part("attn_config", ATTENTION))


def attending(model: ModelSpec, config: Fields) -> ModelSpec:
    """The decoder with the attention that `attn_config` describes."""
    config.get("model_type")
    config.one_of("attn_impl", IMPLEMENTATIONS)
    config.one_of("attn_type", ("multihead_attention",))
    for name in ("prefix_lm", "qk_ln", "attn_uses_sequence_id"):
        if config.flag(name):
            raise config.error(name, "false")
    if not config.flag("alibi"):
        raise config.error("alibi", "true", "learned positions, which transformers' MPT has not")
    if config.count("alibi_bias_max") != BIAS_MAX:
        raise config.error("alibi_bias_max", f"{BIAS_MAX}, which transformers takes whatever it says")
    scale, clip = config.float_or_none("softmax_scale"), config.float_or_none("clip_qkv")
    view = View(model.views[0].rotary, slopes=slopes(model.heads))
    return replace(with_layers(model, [view] * model.layers), scale=model.scale if scale is None else scale, clip=clip)


def no_rotary(config: Fields, context: int, head_dim: int) -> Rotary:
    """Nothing turns."""
    return Rotary((0.0,) * (head_dim // 2))


def slopes(heads: int) -> tuple[float, ...]:
    """ALiBi's slope of each head, as float32 holds it (Press et al. 2022).

    Where the heads are no power of two, they take every second slope of the next one, and then the others.
    """
    whole = 1 << (heads - 1).bit_length()
    found = 2.0 ** (-BIAS_MAX * np.arange(1, whole + 1) / whole)
    if whole != heads:
        found = np.concatenate([found[1::2], found[::2]])[:heads]
    return tuple(map(float, found.astype(np.float32)))


def hub(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a folder: all rows of q, then those of k, then those of v."""
    return from_fused(hub_source(weight, model, HUB, "transformer.blocks"), weight, model, side_by_side)
