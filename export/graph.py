"""The decoder, defined once: traced by running it on the values of whichever emitter it is given.

Owns the order of a Llama-family forward pass and the vocabulary of operations (`Ops`) that it is written in. An emitter
gives the vocabulary a meaning: ONNX nodes (`to_onnx`), MIL operations (`to_coreml`), PyTorch tensors (`to_torch`, and
through it Core AI). How the ring is attended to is `attention`'s; weights are bound by name and never seen here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from edgesink.spec import ModelSpec

Value = Any
"""A symbolic or real tensor of the emitter; understands + - * % < <= > >= & | between values and numbers."""

Attention = Callable[[int, Value, Value, Value], Value]
"""(layer, q [1, H, T, D], k [1, K, T, D], v [1, K, T, D]) -> context [1, H, T, D]."""


class Ops(Protocol):
    """The vocabulary. Weights are named as in `checkpoint.WEIGHTS`; shapes are those of the values."""

    def embed(self, ids: Value) -> Value:
        """Rows of the embedding: [1, T] -> [1, T, hidden]."""

    def norm(self, x: Value, weight: str) -> Value:
        """RMSNorm over the last axis, statistics in float32 whatever the type of `x`."""

    def heads(self, x: Value, *weights: tuple[str, int]) -> tuple[Value, ...]:
        """x @ w.T for each (weight, count), cut into heads: [1, T, hidden] -> [1, count, T, D]."""

    def merge(self, context: Value) -> Value:
        """[1, H, T, D] -> [1, T, H * D]."""

    def add_product(self, x: Value, y: Value, weight: str) -> Value:
        """x + y @ w.T, the residual stream going on: [1, T, hidden]."""

    def gated(self, x: Value, gate: str, up: str) -> Value:
        """silu(x @ gate.T) * (x @ up.T), silu(z) = z sigmoid(z): [1, T, intermediate]."""

    def last(self, x: Value) -> Value:
        """The last real token: [1, T, hidden] -> [1, 1, hidden]."""

    def head(self, x: Value) -> Value:
        """x @ head.T, the logits: [1, 1, hidden] -> [1, 1, V]."""

    def update(self, layer: int, slot: Value, k: Value, v: Value) -> tuple[Value, Value]:
        """Write rows k, v at `slot` [T] of the layer's state; the whole buffers after it, [1, K, rows, D] each."""


def decoder(model: ModelSpec, ops: Ops, attention: Attention, given: Value, layers: range | None = None) -> Value:
    """Trace the model over ids [1, T]; the logits after the last of them, [1, 1, V].

    `layers` are those of one part of a model that is cut (`cut`), None all: a part behind the first is given what the
    part before it returned, and every part but the last returns the residual stream [1, T, hidden].
    """
    layers = range(model.layers) if layers is None else layers
    x = given if layers.start else ops.embed(given)  # [1, T, hidden]
    for layer in layers:
        of = f"layers.{layer}."
        h = ops.norm(x, of + "attention_norm")
        q, k, v = ops.heads(h, (of + "q", model.heads), (of + "k", model.kv_heads), (of + "v", model.kv_heads))
        context = ops.merge(attention(layer, q, k, v))  # [1, T, H * D]
        x = ops.add_product(x, context, of + "o")
        inner = ops.gated(ops.norm(x, of + "mlp_norm"), of + "gate", of + "up")  # [1, T, intermediate]
        x = ops.add_product(x, inner, of + "down")
    if layers.stop < model.layers:
        return x
    return ops.head(ops.norm(ops.last(x), "norm"))


def cut(layers: int, parts: int) -> list[range]:
    """The layers of each of `parts` parts, in order; their numbers differ by one at most."""
    return [range(layers * part // parts, layers * (part + 1) // parts) for part in range(parts)]
