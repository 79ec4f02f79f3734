"""What families have in common: RMSNorm, grouped queries, rotary positions, a gated MLP; read once for each format.

A family adds weights and views to this decoder, or numbers that are folded into it. Owns the names of the sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgesink.errors import BadCheckpoint
from edgesink.export.families.fields import Fields
from edgesink.export.families.rope import HEAD_SIZE, rotary_of_config, rotary_of_gguf
from edgesink.export.families.spelling import GGUF
from edgesink.export.families.weights_of import BIASES, Tensors, with_weights
from edgesink.spec import Activation, ModelSpec, Rotary, View

MOST_LAYERS = 4096
MOST_HEADS = 4096
MOST_DIMENSIONS = 4096  # of a head
MOST_WIDTH = 1 << 20  # of the residual stream or the MLP; a damaged field is larger, and orders of rows are made of it

WEIGHTS = ("attention_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down")
"""Of a layer."""

ACTIVATIONS: Mapping[str, Activation] = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
"""By their names in a config.json."""


def decoder_of_config(
    config: Fields,
    name: str,
    activation: str = "hidden_act",
    rotary_of: Callable[[Fields, int, int], Rotary] = rotary_of_config,
) -> ModelSpec:
    """The decoder that a config.json describes, all its layers alike.

    Args:
        activation: the field that names it.
        rotary_of: (config, tokens seen in training, dimensions of a head) -> how heads turn.
    """
    context = config.count("max_position_embeddings")
    names = "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"
    hidden, heads, kv_heads, head_dim = _heads(config, *names)
    return ModelSpec(
        name=name,
        architecture=config.text("model_type"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=config.count("intermediate_size", most=MOST_WIDTH),
        vocab=config.count("vocab_size"),
        context=context,
        tied=config.flag("tie_word_embeddings"),
        views=(View(rotary_of(config, context, head_dim)),),
        view_of=(0,) * config.count("num_hidden_layers", most=MOST_LAYERS),
        weights=WEIGHTS,
        scale=head_dim**-0.5,
        norm_eps=config.number("rms_norm_eps", below=1),
        activation=ACTIVATIONS[config.one_of(activation, ACTIVATIONS)],
    )


def decoder_of_gguf(
    fields: Fields,
    name: str,
    tensors: Tensors,
    architecture: str,
    rotary_of: Callable[[Fields, Tensors, int], Rotary] = rotary_of_gguf,
) -> ModelSpec:
    """The decoder that a GGUF describes, all its layers alike; biases of q, k and v are there if their tensors are.

    Args:
        architecture: as transformers calls it.
        rotary_of: (fields, tensors, dimensions of a head) -> how heads turn.
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
        norm_eps=round(fields.number("attention.layer_norm_rms_epsilon", below=1), 12),  # float32 in the file
    )
    has_biases = any(f"blk.0.{GGUF[bias]}" in tensors.shapes for bias in BIASES)
    return with_weights(model, *BIASES) if has_biases else model


def _heads(fields: Fields, width: str, queries: str, keys: str, size: str) -> tuple[int, int, int, int]:
    """(hidden size, query heads, key/value heads, dimensions of a head), by the names of their fields."""
    hidden, heads = fields.count(width, most=MOST_WIDTH), fields.count(queries, most=MOST_HEADS)
    if hidden % heads and fields.get(size) is None:
        raise fields.error(queries, f"a divisor of {width} = {hidden}")
    kv_heads, head_dim = fields.count(keys, heads), fields.count(size, hidden // heads)
    if heads % kv_heads:
        raise fields.error(keys, f"a divisor of {queries} = {heads}")
    if head_dim > MOST_DIMENSIONS:
        raise fields.error(size if fields.says(size) else width, f"heads of {MOST_DIMENSIONS} dimensions at most")
    if head_dim % 2:
        raise fields.error(size if fields.says(size) else queries, "heads of an even number of dimensions")
    return hidden, heads, kv_heads, head_dim
