"""The decoder, defined once: traced by running it on the values of whichever emitter it is given.

Owns the order of a forward pass and the vocabulary of operations (`Ops`) that it is written in. An emitter
gives the vocabulary a meaning: ONNX nodes (`to_onnx`), MIL operations (`to_coreml`), PyTorch tensors (`to_torch`, and
through it Core AI). What a model is stands here: an emitter is told each number that it needs. How the ring is
attended to is `attention`'s; weights are bound by name and never seen here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from edgesink.errors import BadOption
from edgesink.spec import ACTIVATIONS, Activation, ModelSpec, NormKind

Value = Any
"""A symbolic or real tensor of the emitter; understands + - * % < <= > >= & | between values and numbers."""

Attention = Callable[[int, Value, Value, Value], Value]
"""(layer, q [1, H, T, D], k [1, K, T, D], v [1, K, T, D]) -> context [1, H, T, D]."""


@dataclass(frozen=True)
class Norm:
    """y / sqrt(mean(y²) + eps) * weight + bias over the last axis; y is x, or for LayerNorm x less its mean."""

    weight: str
    eps: float
    kind: NormKind = "rms"
    bias: str | None = None


@dataclass(frozen=True)
class Product:
    """A product x @ w.T + bias."""

    weight: str
    bias: str | None = None


@dataclass(frozen=True)
class Projection:
    """A product x @ w.T + bias whose rows are heads."""

    weight: str
    heads: int
    bias: str | None = None
    clip: float | None = None  # the values are kept within ± it
    norm: Norm | None = None  # then, of all its heads together, before it is cut into them


class Ops(Protocol):
    """The vocabulary. Weights go by the names of `checkpoint.weight_names`; shapes are those of the values."""

    def embed(self, ids: Value, weight: str, scale: float) -> Value:
        """Rows of the embedding times `scale`: [1, T] -> [1, T, hidden]."""

    def norm(self, x: Value, norm: Norm) -> Value:
        """The norm over the last axis, statistics in float32 whatever the type of `x`."""

    def heads(self, x: Value, *projections: Projection) -> tuple[Value, ...]:
        """Each product cut into its heads: [1, T, hidden] -> [1, heads, T, D]."""

    def merge(self, context: Value, width: int) -> Value:
        """[1, H, T, D] -> [1, T, width], width = H D."""

    def residual(self, x: Value, y: Value, product: Product, after: Norm | None) -> Value:
        """x + product(y), the residual stream going on; the product goes through `after` first: [1, T, hidden]."""

    def gated(self, x: Value, gate: str, up: str, activation: Activation) -> Value:
        """activation(x @ gate.T) * (x @ up.T): [1, T, intermediate]. BadOption for an activation it does not know."""

    def plain(self, x: Value, up: Product, activation: Activation) -> Value:
        """activation(up(x)): [1, T, intermediate]. BadOption for an activation it does not know."""

    def last(self, x: Value) -> Value:
        """The last real token: [1, T, hidden] -> [1, 1, hidden]."""

    def head(self, x: Value, weight: str) -> Value:
        """x @ w.T, the logits: [1, 1, hidden] -> [1, 1, V]; the weight is the embedding's where the two are tied."""

    def capped(self, x: Value, cap: float) -> Value:
        """cap tanh(x / cap), elementwise."""


def decoder(model: ModelSpec, ops: Ops, attention: Attention, entering: Value, layers: range | None = None) -> Value:
    """Trace the model over ids [1, T]; the logits after the last of them, [1, 1, V].

    `layers` are those of one part of a model that is cut (`cut`), None all: into a part behind the first enters what
    the part before it returned, and every part but the last returns the residual stream [1, T, hidden].
    """
    layers = range(model.layers) if layers is None else layers
    x = entering if layers.start else ops.embed(entering, "embedding", model.embedding_scale)  # [1, T, hidden]
    for layer in layers:
        w = LayerWeights(model, layer)
        h = _normed(ops, x, w.stream_norm("attention_norm"))
        q, k, v = ops.heads(
            h, w.projection("q", model.heads), w.projection("k", model.kv_heads), w.projection("v", model.kv_heads)
        )
        q, k = _normed(ops, q, w.norm("q_norm")), _normed(ops, k, w.norm("k_norm"))
        context = ops.merge(attention(layer, q, k, v), model.heads * model.head_dim)  # [1, T, H D]
        attended = ops.residual(x, context, w.product("o"), w.norm("post_attention_norm"))
        if not model.parallel:
            h = _normed(ops, attended, w.stream_norm("mlp_norm"))
        elif norm := w.stream_norm("mlp_norm"):  # without one of its own, the MLP shares attention's
            h = ops.norm(x, norm)
        x = ops.residual(attended, _inner(ops, h, w), w.product("down"), w.norm("post_mlp_norm"))
    if layers.stop < model.layers:
        return x
    norm = Norm("norm", model.stream_eps, model.norm_kind, "norm_bias" if model.has_norm_bias else None)
    logits = ops.head(ops.norm(ops.last(x), norm), "embedding" if model.tied else "head")
    return logits if model.logits_cap is None else ops.capped(logits, model.logits_cap)


def _normed(ops: Ops, x: Value, norm: Norm | None) -> Value:
    """x through the norm, if there is one."""
    return x if norm is None else ops.norm(x, norm)


def _inner(ops: Ops, x: Value, w: LayerWeights) -> Value:
    """What the MLP's last product takes: [1, T, intermediate]."""
    if w.has("gate"):
        return ops.gated(x, w.name("gate"), w.name("up"), w.model.activation)
    return ops.plain(x, w.product("up"), w.model.activation)


@dataclass(frozen=True)
class LayerWeights:
    """The weights of one layer by name; one that the model has not is None."""

    model: ModelSpec
    layer: int

    def name(self, weight: str) -> str:
        """As the emitters know it: "layers.3.q"."""
        return f"layers.{self.layer}.{weight}"

    def has(self, weight: str) -> bool:
        """Whether the model has it."""
        return weight in self.model.weights

    def product(self, weight: str) -> Product:
        """The product with a weight, with its bias if there is one."""
        return Product(self.name(weight), self._bias(weight))

    def projection(self, weight: str, heads: int) -> Projection:
        """The same, its rows being those of `heads` heads."""
        norm = self.norm(f"{weight}_whole_norm")
        return Projection(self.name(weight), heads, self._bias(weight), self.model.clip, norm)

    def norm(self, weight: str) -> Norm | None:
        """A norm of what is not the residual stream."""
        return self._norm(weight, self.model.norm_eps)

    def stream_norm(self, weight: str) -> Norm | None:
        """A norm of the residual stream."""
        return self._norm(weight, self.model.stream_eps)

    def _norm(self, weight: str, eps: float) -> Norm | None:
        norm = Norm(self.name(weight), eps, self.model.norm_kind, self._bias(weight))
        return norm if self.has(weight) else None

    def _bias(self, weight: str) -> str | None:
        bias = f"{weight}_bias"
        return self.name(bias) if self.has(bias) else None


def unknown_activation(activation: str) -> BadOption:
    """The failure of an emitter that has no such activation."""
    return BadOption(f"a model whose activation is {activation!r}", " or ".join(ACTIVATIONS))


def cut(layers: int, parts: int) -> list[range]:
    """The layers of each of `parts` parts, in order; their numbers differ by one at most."""
    return [range(layers * part // parts, layers * (part + 1) // parts) for part in range(parts)]
