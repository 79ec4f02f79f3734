"""What families have in common: RMSNorm, grouped queries, rotary positions, a gated MLP; read once for each format.

A family adds weights and views to this decoder, or numbers that are folded into it; `with_layer_norms` is the other
kind of norm. Owns the usual names of the sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from edgesink.errors import BadCheckpoint
from edgesink.export.families.fields import Fields
from edgesink.export.families.rope import HEAD_SIZE, rotary_of_config, rotary_of_gguf
from edgesink.export.families.spelling import GGUF
from edgesink.export.families.weights_of import BIASES, NORM_BIASES, Tensors, with_weights
from edgesink.spec import Activation, ModelSpec, Rotary, View

MOST_LAYERS = 4096
MOST_HEADS = 4096
MOST_DIMENSIONS = 4096  # of a head
MOST_WIDTH = 1 << 20  # of the residual stream or the MLP; a damaged field is larger, and orders of rows are made of it

WEIGHTS = ("attention_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down")
"""Of a layer."""

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""By their names in a config.json."""


@dataclass(frozen=True)
class Names:
    """What a config.json calls the numbers of a decoder; None where it has no field for one."""

    hidden: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    kv_heads: str | None = "num_key_value_heads"  # None: as many as query heads
    head_dim: str | None = "head_dim"  # None: the width shared out among the query heads
    intermediate: str | None = "intermediate_size"  # None: four times the width
    context: str = "max_position_embeddings"
    norm_eps: str = "rms_norm_eps"
    activation: str | None = "hidden_act"  # None: the family knows it


def decoder_of_config(
    config: Fields,
    name: str,
    names: Names = Names(),
    rotary_of: Callable[[Fields, int, int], Rotary] = rotary_of_config,
) -> ModelSpec:
    """The decoder that a config.json describes, all its layers alike.

    Args:
        names: its fields.
        rotary_of: (config, tokens seen in training, dimensions of a head) -> how heads turn.
    """
    context = config.count(names.context)
    hidden, heads, kv_heads, head_dim = _heads(config, names.hidden, names.heads, names.kv_heads, names.head_dim)
    return ModelSpec(
        name=name,
        architecture=config.text("model_type"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=config.count(names.intermediate, most=MOST_WIDTH) if names.intermediate else 4 * hidden,
        vocab=config.count("vocab_size"),
        context=context,
        tied=config.flag("tie_word_embeddings"),
        views=(View(rotary_of(config, context, head_dim)),),
        view_of=(0,) * config.count(names.layers, most=MOST_LAYERS),
        weights=WEIGHTS,
        scale=head_dim**-0.5,
        norm_eps=config.number(names.norm_eps, below=1),
        activation=ACTIVATIONS[config.one_of(names.activation, ACTIVATIONS)] if names.activation else "silu",
    )


def with_layer_norms(model: ModelSpec) -> ModelSpec:
    """The decoder with LayerNorm in place of RMSNorm, all of them with biases."""
    return with_weights(replace(model, norm_kind="layer"), *NORM_BIASES)


def decoder_of_gguf(
    fields: Fields,
    name: str,
    tensors: Tensors,
    architecture: str,
    rotary_of: Callable[[Fields, Tensors, int], Rotary] = rotary_of_gguf,
    norm_eps: str = "attention.layer_norm_rms_epsilon",
) -> ModelSpec:
    """The decoder that a GGUF describes, all its layers alike; biases of q, k and v are there if their tensors are.

    Args:
        architecture: as transformers calls it.
        rotary_of: (fields, tensors, dimensions of a head) -> how heads turn.
        norm_eps: the field of the norms' eps.
    """
    if GGUF["embedding"] not in tensors.shapes:
        raise BadCheckpoint(f"{fields.where} has no tensor {GGUF['embedding']!r}", "a language model")
    vocab = tensors.shapes[GGUF["embedding"]][0]
    if fields.count("vocab_size", vocab) != vocab:
        raise fields.error("vocab_size", f"{vocab}, the rows of {GGUF['embedding']}")
    names = "embedding_length", "attention.head_count", "attention.head_count_kv", "attention.key_length"
    hidden, heads, kv_heads, head_dim = _heads(fields, *names)
    if fields.count("attention.value_length", head_dim) != head_dim:
        raise fields.error("attention.value_length", f"{head_dim}, the size of a head: {HEAD_SIZE}")
    model = ModelSpec(
        name=name,
        architecture=architecture,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=fields.count("feed_forward_length", most=MOST_WIDTH),
        vocab=vocab,
        context=fields.count("context_length"),
        tied=GGUF["head"] not in tensors.shapes,
        views=(View(rotary_of(fields, tensors, head_dim)),),
        view_of=(0,) * fields.count("block_count", most=MOST_LAYERS),
        weights=WEIGHTS,
        scale=head_dim**-0.5,
        norm_eps=round(fields.number(norm_eps, below=1), 12),  # float32 in the file
    )
    has_biases = any(f"blk.0.{GGUF[bias]}" in tensors.shapes for bias in BIASES)
    return with_weights(model, *BIASES) if has_biases else model


def _heads(fields: Fields, width: str, queries: str, keys: str | None, size: str | None) -> tuple[int, int, int, int]:
    """(hidden size, query heads, key/value heads, dimensions of a head), by the names of their fields."""
    hidden, heads = fields.count(width, most=MOST_WIDTH), fields.count(queries, most=MOST_HEADS)
    if hidden % heads and (size is None or fields.get(size) is None):
        raise fields.error(queries, f"a divisor of {width} = {hidden}")
    kv_heads = heads if keys is None else fields.count(keys, heads)
    head_dim = hidden // heads if size is None else fields.count(size, hidden // heads)
    said = size if size is not None and fields.says(size) else None
    if keys is not None and heads % kv_heads:
        raise fields.error(keys, f"a divisor of {queries} = {heads}")
    if head_dim > MOST_DIMENSIONS:
        raise fields.error(said or width, f"heads of {MOST_DIMENSIONS} dimensions at most")
    if head_dim % 2:
        raise fields.error(said or queries, "heads of an even number of dimensions")
    return hidden, heads, kv_heads, head_dim
