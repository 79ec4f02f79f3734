"""Llama and its likes: RMSNorm, grouped queries, whole-head RoPE, gated SiLU, no biases."""

from __future__ import annotations

import re

import numpy as np

from edgesink.errors import BadCheckpoint
from edgesink.export.families.fields import Fields
from edgesink.export.families.rope import rope_of_config
from edgesink.export.families.weights_of import Shapes, Source, weight_shape
from edgesink.spec import ModelSpec, RopeSpec

MOST_LAYERS = 4096
HEAD_SIZE = "attention.key_length, or else embedding_length / attention.head_count"

HUB_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
    "attention_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}

GGUF_NAMES = {
    "embedding": "token_embd.weight",
    "norm": "output_norm.weight",
    "head": "output.weight",
    "attention_norm": "attn_norm.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "o": "attn_output.weight",
    "mlp_norm": "ffn_norm.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
}


def of_config(config: Fields, name: str) -> ModelSpec:
    """The decoder that a config.json describes."""
    config.one_of("hidden_act", ("silu", "swish"))  # two names of one function
    layers = config.count("num_hidden_layers", most=MOST_LAYERS)
    kinds = config.get("layer_types")
    if kinds is not None and kinds != ["full_attention"] * layers:
        raise config.error("layer_types", f"'full_attention' for each of {layers} layers")
    hidden, context = config.count("hidden_size"), config.count("max_position_embeddings")
    heads, kv_heads, head_dim = _heads(config, hidden, "num_attention_heads", "num_key_value_heads", "head_dim")
    return ModelSpec(
        name=name,
        architecture=config.text("model_type"),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=config.count("intermediate_size"),
        vocab=config.count("vocab_size"),
        norm_eps=config.number("rms_norm_eps", below=1),
        rope=rope_of_config(config, context),
        tied=config.flag("tie_word_embeddings"),
        context=context,
    )


def sliding_window(config: Fields) -> int | None:
    """None: transformers' Llama sees everything. A field that says otherwise is left unread, and refused."""
    return None


def hub_source(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a folder of safetensors."""
    layer, _, name = weight.rpartition(".")
    key = f"model.{layer}.{HUB_NAMES[name]}" if layer else HUB_NAMES[name]
    return Source(key, weight_shape(model, weight))


def hub_derived(key: str, model: ModelSpec) -> np.ndarray | None:
    """Old checkpoints hold the RoPE frequencies of each layer; transformers computes them anew, and so do we."""
    if re.fullmatch(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", key):
        return model.rope.inverse_frequencies(model.head_dim)
    return None


def of_gguf(fields: Fields, name: str, tensors: Shapes) -> ModelSpec:
    """The decoder that a GGUF describes."""
    hidden = fields.count("embedding_length")
    if GGUF_NAMES["embedding"] not in tensors:
        raise BadCheckpoint(f"{fields.where} has no tensor {GGUF_NAMES['embedding']!r}", "a language model")
    vocab = tensors[GGUF_NAMES["embedding"]][0]
    if fields.count("vocab_size", vocab) != vocab:
        raise fields.error("vocab_size", f"{vocab}, the rows of {GGUF_NAMES['embedding']}")
    heads, kv_heads, head_dim = _heads(
        fields, hidden, "attention.head_count", "attention.head_count_kv", "attention.key_length"
    )
    for other in ("attention.value_length", "rope.dimension_count"):
        if fields.count(other, head_dim) != head_dim:
            raise fields.error(other, f"{head_dim}, the size of a head: {HEAD_SIZE}")
    return ModelSpec(
        name=name,
        architecture="llama",
        layers=fields.count("block_count", most=MOST_LAYERS),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=fields.count("feed_forward_length"),
        vocab=vocab,
        norm_eps=round(fields.number("attention.layer_norm_rms_epsilon", below=1), 12),  # float32 in the file
        rope=RopeSpec(fields.number("rope.freq_base", 10000.0)),
        tied=GGUF_NAMES["head"] not in tensors,
        context=fields.count("context_length"),
    )


def gguf_source(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a GGUF; the rows of q and k are put back in order.

    llama.cpp stores them with the halves of each rotary pair interleaved.
    """
    layer, _, name = weight.rpartition(".")
    key = f"blk.{layer.removeprefix('layers.')}.{GGUF_NAMES[name]}" if layer else GGUF_NAMES[name]
    heads = {"q": model.heads, "k": model.kv_heads}.get(name)
    return Source(key, weight_shape(model, weight), None if heads is None else _halves_first(heads, model.head_dim))


def _halves_first(heads: int, head_dim: int) -> np.ndarray:
    return np.arange(heads * head_dim).reshape(heads, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def _heads(fields: Fields, hidden: int, queries: str, keys: str, size: str) -> tuple[int, int, int]:
    """(query heads, key/value heads, dimensions of a head), by the names of their fields."""
    heads = fields.count(queries)
    if hidden % heads and fields.get(size) is None:
        raise fields.error(queries, f"a divisor of {hidden}, the hidden size")
    kv_heads, head_dim = fields.count(keys, heads), fields.count(size, hidden // heads)
    if heads % kv_heads:
        raise fields.error(keys, f"a divisor of {queries} = {heads}")
    if head_dim % 2:
        raise fields.error(size if fields.says(size) else queries, "heads of an even number of dimensions")
    return heads, kv_heads, head_dim
