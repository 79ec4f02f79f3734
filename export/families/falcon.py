"""Falcon: LayerNorm, an MLP without a gate, q, k and v in one matrix, attention and MLP side by side or in turn.

The first ones have one head of keys and values, or as many as of queries; the new architecture (40B, 11B) has some,
and a norm for attention and one for the MLP, or one for both. Those with ALiBi (falcon-rw) are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgesink.export.families.decoder import (
    MOST_WIDTH,
    Names,
    decoder_of_config,
    decoder_of_gguf,
    with_layer_norms,
)
from edgesink.export.families.fields import Fields
from edgesink.export.families.fused import from_fused, grouped, side_by_side
from edgesink.export.families.own_code import check_own_code
from edgesink.export.families.spelling import GGUF, fused_layer, gguf_source, hub_source
from edgesink.export.families.weights_of import BIASES, MLP_BIASES, Source, Tensors, with_weights, without_weights
from edgesink.spec import ModelSpec

NAMES = Names(kv_heads=None, head_dim=None, intermediate=None, norm_eps="layer_norm_epsilon", activation="activation")
HEADS = ("CausalLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")
OWN_CODE: Mapping[str, str] = {
    "AutoConfig": "configuration_falcon.FalconConfig",
    "AutoModel": "modeling_falcon.FalconModel",
    **{f"AutoModelFor{head}": f"modeling_falcon.FalconFor{head}" for head in HEADS},
}
HUB: Mapping[str, str] = {
    "embedding": "transformer.word_embeddings.weight",
    "norm": "transformer.ln_f.weight",
    "norm_bias": "transformer.ln_f.bias",
    "head": "lm_head.weight",
    **fused_layer("self_attention"),
}
HUB_OF_TWO_NORMS: Mapping[str, str] = {  # side by side
    **HUB,
    "attention_norm": "ln_attn.weight",
    "attention_norm_bias": "ln_attn.bias",
    "mlp_norm": "ln_mlp.weight",
    "mlp_norm_bias": "ln_mlp.bias",
}
IN_GGUF: Mapping[str, str] = {**GGUF, **dict.fromkeys("qkv", "attn_qkv.weight")}
IN_GGUF_OF_TWO_NORMS: Mapping[str, str] = {
    **IN_GGUF,
    "attention_norm": "attn_norm_2.weight",
    "attention_norm_bias": "attn_norm_2.bias",
    "mlp_norm": "attn_norm.weight",
    "mlp_norm_bias": "attn_norm.bias",
}


def of_config(config: Fields, name: str) -> ModelSpec:
    """The code that the hub's folders bring along is of the same decoder."""
    check_own_code(config, OWN_CODE)
    if config.flag("alibi", False):
        raise config.error("alibi", "false", "ALiBi, whose scores change with the distance", "choose another model")
    model = decoder_of_config(config, name, NAMES)
    new, parallel = config.flag("new_decoder_architecture", False), config.flag("parallel_attn", False)
    if new and not parallel:
        raise config.error("parallel_attn", "true, as new_decoder_architecture is")
    kv_heads = kv_heads_of(config, model.heads, new)
    inner = config.count("ffn_hidden_size", model.intermediate, most=MOST_WIDTH)
    norms = config.count("num_ln_in_parallel_attn", 2 if new or not parallel else 1, most=2)
    if norms != 1 and not new and parallel:
        raise config.error("num_ln_in_parallel_attn", "1, as new_decoder_architecture is false")
    model = replace(model, kv_heads=kv_heads, intermediate=inner)
    return decoder(model, parallel, shares_norm=parallel and norms == 1, has_biases=config.flag("bias", False))


def kv_heads_of(config: Fields, heads: int, new: bool) -> int:
    """The heads of keys and values; their number is overlooked where there is one of each."""
    said, one = config.count("num_kv_heads", heads), config.flag("multi_query", False)
    if heads % said:
        raise config.error("num_kv_heads", f"a divisor of num_attention_heads = {heads}")
    if not new and not one and said != heads:
        raise config.error("num_kv_heads", f"{heads}, the query heads, as multi_query is false")
    return 1 if one and not new else said


def of_gguf(fields: Fields, name: str, tensors: Tensors) -> ModelSpec:
    """The file does not name the activation: it is the same in all of them.

    Falcon 2, the one with groups of heads and one norm, has a rotary base that llama.cpp's converter does not write.
    """
    fields.one_of("tensor_data_layout", ("jploski",), "jploski")
    eps = "attention.layer_norm_epsilon"
    model = replace(decoder_of_gguf(fields, name, tensors, "falcon", norm_eps=eps), activation="gelu")
    shares_norm = f"blk.0.{IN_GGUF_OF_TWO_NORMS['attention_norm']}" not in tensors.shapes
    if shares_norm and model.kv_heads not in (1, model.heads) and not fields.says("rope.freq_base"):
        raise fields.error("rope.freq_base", "one, for groups of heads and one norm", "", "export its original folder")
    return decoder(model, True, shares_norm, has_biases=False)


def decoder(model: ModelSpec, parallel: bool, shares_norm: bool, has_biases: bool) -> ModelSpec:
    """The decoder with what is Falcon's own."""
    model = replace(with_layer_norms(without_weights(model, "gate")), parallel=parallel)
    model = with_weights(model, *BIASES, "o_bias", *MLP_BIASES) if has_biases else model
    return without_weights(model, "mlp_norm", "mlp_norm_bias") if shares_norm else model


def has_two_norms(model: ModelSpec) -> bool:
    """Attention and MLP are side by side, each with a norm of its own."""
    return model.parallel and "mlp_norm" in model.weights


def hub(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a folder: of the fused matrix, each group of heads has its rows together."""
    names = HUB_OF_TWO_NORMS if has_two_norms(model) else HUB
    return from_fused(hub_source(weight, model, names, "transformer.h"), weight, model, grouped)


def gguf(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a GGUF: all rows of q, then those of k, then those of v."""
    names = IN_GGUF_OF_TWO_NORMS if has_two_norms(model) else IN_GGUF
    return from_fused(gguf_source(weight, model, names), weight, model, side_by_side)
