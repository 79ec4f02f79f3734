"""How files spell the weights of a decoder: transformers' modules in a folder, and llama.cpp's tensors in a GGUF.

Owns the two tables. Families that differ in a name, an order of rows or a number folded in say so in their own file.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgesink.export.families.weights_of import BIASES, Source, weight_shape
from edgesink.spec import ModelSpec

HUB: Mapping[str, str] = {
    "embedding": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "norm_bias": "model.norm.bias",
    "head": "lm_head.weight",
    "attention_norm": "input_layernorm.weight",
    "attention_norm_bias": "input_layernorm.bias",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "q_whole_norm": "self_attn.q_norm.weight",
    "k_whole_norm": "self_attn.k_norm.weight",
    "o": "self_attn.o_proj.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "mlp_norm_bias": "post_attention_layernorm.bias",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}

HUB_POST_NORMS: Mapping[str, str] = {
    **HUB,
    "post_attention_norm": "post_attention_layernorm.weight",
    "mlp_norm": "pre_feedforward_layernorm.weight",
    "post_mlp_norm": "post_feedforward_layernorm.weight",
}
"""The same where there are norms behind attention and MLP."""


def fused_layer(attention: str) -> dict[str, str]:
    """A layer as GPT-NeoX has it, and Falcon after it: q, k and v in one matrix of the module `attention`."""
    return {
        "attention_norm": "input_layernorm.weight",
        "attention_norm_bias": "input_layernorm.bias",
        **dict.fromkeys("qkv", f"{attention}.query_key_value.weight"),
        **dict.fromkeys(BIASES, f"{attention}.query_key_value.bias"),
        "o": f"{attention}.dense.weight",
        "o_bias": f"{attention}.dense.bias",
        "mlp_norm": "post_attention_layernorm.weight",
        "mlp_norm_bias": "post_attention_layernorm.bias",
        "up": "mlp.dense_h_to_4h.weight",
        "up_bias": "mlp.dense_h_to_4h.bias",
        "down": "mlp.dense_4h_to_h.weight",
        "down_bias": "mlp.dense_4h_to_h.bias",
    }


GGUF: Mapping[str, str] = {
    "embedding": "token_embd.weight",
    "norm": "output_norm.weight",
    "norm_bias": "output_norm.bias",
    "head": "output.weight",
    "attention_norm": "attn_norm.weight",
    "attention_norm_bias": "attn_norm.bias",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "q_bias": "attn_q.bias",
    "k_bias": "attn_k.bias",
    "v_bias": "attn_v.bias",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
    "q_whole_norm": "attn_q_norm.weight",
    "k_whole_norm": "attn_k_norm.weight",
    "o": "attn_output.weight",
    "o_bias": "attn_output.bias",
    "post_attention_norm": "post_attention_norm.weight",
    "mlp_norm": "ffn_norm.weight",
    "mlp_norm_bias": "ffn_norm.bias",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "up_bias": "ffn_up.bias",
    "down": "ffn_down.weight",
    "down_bias": "ffn_down.bias",
    "post_mlp_norm": "post_ffw_norm.weight",
}


def hub_source(weight: str, model: ModelSpec, names: Mapping[str, str] = HUB, layers: str = "model.layers") -> Source:
    """Where a weight is in a folder of safetensors, whose modules of layer 3 are below `layers` and "3"."""
    layer, _, name = weight.rpartition(".")
    key = f"{layers}.{layer.removeprefix('layers.')}.{names[name]}" if layer else names[name]
    return Source(key, weight_shape(model, weight))


def gguf_source(weight: str, model: ModelSpec, names: Mapping[str, str] = GGUF) -> Source:
    """Where a weight is in a GGUF whose rows are as transformers has them."""
    layer, _, name = weight.rpartition(".")
    key = f"blk.{layer.removeprefix('layers.')}.{names[name]}" if layer else names[name]
    return Source(key, weight_shape(model, weight))


def interleaved_gguf_source(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a GGUF that has the halves of each rotary pair of q and k side by side: Llama's likes."""
    source = gguf_source(weight, model)
    heads = {"q": model.heads, "k": model.kv_heads}.get(weight.rpartition(".")[2].removesuffix("_bias"))
    return source if heads is None else Source(source.key, source.shape, halves_first(heads, model.head_dim))


def halves_first(heads: int, head_dim: int) -> np.ndarray:
    """The order of rows in which pairs (2 i, 2 i + 1) of a head become (i, i + D/2): int64 [heads D]."""
    return np.arange(heads * head_dim).reshape(heads, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def turning_halves_apart(head_dim: int, turning: int) -> np.ndarray:
    """The order in which the first `turning` dimensions of a head, pairs (i, i + turning/2), are pairs (i, i + D/2).

    int64 [D]; the dimensions that do not turn fill up both halves. A common order of q and k changes no score.
    """
    first, second = np.split(np.arange(turning), 2)
    one, other = np.split(np.arange(turning, head_dim), 2)
    return np.concatenate([first, one, second, other])
