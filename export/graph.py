"""The decoder, defined once: traced by running it on the values of whichever emitter it is given.

Owns the order of a Llama-family forward pass and the vocabulary of operations (`Ops`) that it is written in. An emitter
gives the vocabulary a meaning: ONNX nodes (`to_onnx`), MIL operations (`to_coreml`), PyTorch tensors (`to_torch`, and
through it Core AI). What a model is stands here: an emitter is told each number that it needs. How the ring is
attended to is `attention`'s; weights are bound by name and never seen here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from edgesink.errors import BadOption
from edgesink.spec import ModelSpec

Value = Any
"""A symbolic or real tensor of the emitter; understands + - * % < <= > >= & | between values and numbers."""

Attention = Callable[[int, Value, Value, Value], Value]
"""(layer, q [1, H, T, D], k [1, K, T, D], v [1, K, T, D]) -> context [1, H, T, D]."""

Activation = Literal["silu"]
"""What the gate goes through: silu(z) = z sigmoid(z)."""


class Ops(Protocol):
    """The vocabulary. Weights go by the names of `checkpoint.weight_names`; shapes are those of the values."""

    def embed(self, ids: Value, weight: str) -> Value:
        """Rows of the embedding: [1, T] -> [1, T, hidden]."""

    def norm(self, x: Value, weight: str, eps: float) -> Value:
        """RMSNorm over the last axis, statistics in float32 whatever the type of `x`."""

    def heads(self, x: Value, *weights: tuple[str, int]) -> tuple[Value, ...]:
        """x @ w.T for each (weight, count), cut into so many heads: [1, T, hidden] -> [1, count, T, D]."""

    def merge(self, context: Value, width: int) -> Value:
        """[1, H, T, D] -> [1, T, width], width = H D."""

    def residual(self, x: Value, y: Value, weight: str) -> Value:
        """x + y @ w.T, the residual stream going on: [1, T, hidden]."""

    def gated(self, x: Value, gate: str, up: str, activation: Activation) -> Value:
        """activation(x @ gate.T) * (x @ up.T): [1, T, intermediate]. BadOption for an activation it does not know."""

    def last(self, x: Value) -> Value:
        """The last real token: [1, T, hidden] -> [1, 1, hidden]."""

    def head(self, x: Value, weight: str) -> Value:
        """x @ w.T, the logits: [1, 1, hidden] -> [1, 1, V]; the weight is the embedding's where the two are tied."""


def decoder(model: ModelSpec, ops: Ops, attention: Attention, entering: Value, layers: range | None = None) -> Value:
    """Trace the model over ids [1, T]; the logits after the last of them, [1, 1, V].

    `layers` are those of one part of a model that is cut (`cut`), None all: into a part behind the first enters what
    the part before it returned, and every part but the last returns the residual stream [1, T, hidden].
    """
    layers = range(model.layers) if layers is None else layers
    eps = model.norm_eps
    x = entering if layers.start else ops.embed(entering, "embedding")  # [1, T, hidden]
    for layer in layers:
        of = f"layers.{layer}."
        h = ops.norm(x, of + "attention_norm", eps)
        q, k, v = ops.heads(h, (of + "q", model.heads), (of + "k", model.kv_heads), (of + "v", model.kv_heads))
        context = ops.merge(attention(layer, q, k, v), model.heads * model.head_dim)  # [1, T, H D]
        x = ops.residual(x, context, of + "o")
        inner = ops.gated(ops.norm(x, of + "mlp_norm", eps), of + "gate", of + "up", "silu")  # [1, T, intermediate]
        x = ops.residual(x, inner, of + "down")
    if layers.stop < model.layers:
        return x
    return ops.head(ops.norm(ops.last(x), "norm", eps), "embedding" if model.tied else "head")


def check_activation(activation: str, known: tuple[Activation, ...] = ("silu",)) -> None:
    """BadOption unless the emitter that asks knows the activation."""
    if activation not in known:
        raise BadOption(f"a model whose activation is {activation!r}", " or ".join(known))


def cut(layers: int, parts: int) -> list[range]:
    """The layers of each of `parts` parts, in order; their numbers differ by one at most."""
    return [range(layers * part // parts, layers * (part + 1) // parts) for part in range(parts)]
