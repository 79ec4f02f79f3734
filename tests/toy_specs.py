"""Specs of toy decoders, for tests that need no checkpoint."""

from edgesink.export.families.frequencies import held, plain
from edgesink.spec import ModelSpec, Rotary, View

LLAMA_WEIGHTS = ("attention_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down")


def rotary(theta: float = 10000.0, head_dim: int = 16) -> Rotary:
    """Plain rotary embedding of whole heads."""
    return Rotary(held(plain(theta, head_dim), head_dim // 2))


def llama_spec(
    layers: int = 3,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    intermediate: int = 128,
    vocab: int = 256,
    tied: bool = True,
) -> ModelSpec:
    """A Llama: one view without a window of its own, no biases, no further norms."""
    return ModelSpec(
        name="toy",
        architecture="llama",
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=intermediate,
        vocab=vocab,
        context=512,
        tied=tied,
        views=(View(rotary(head_dim=head_dim)),),
        view_of=(0,) * layers,
        weights=LLAMA_WEIGHTS,
        scale=head_dim**-0.5,
        norm_eps=1e-5,
    )
