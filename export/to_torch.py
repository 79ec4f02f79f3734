"""The decoder run with real tensors: what the emitters' vocabulary means in PyTorch.

Owns an executable decoder in both formulations of `attention`, in any float type, its states as buffers. It is how
the formulations are shown to be exact (float64 against the oracle), and what Core AI is exported from. Nothing here
is fast, and nothing of the oracle is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch  # noqa: TID253  (this module is PyTorch's side of the vocabulary; what imports it does so lazily)

from edgesink import names
from edgesink.export.attention import MASKED, by_view, frame_attention, stream_attention
from edgesink.export.graph import Attention, Norm, Product, Projection, decoder, unknown_activation
from edgesink.export.rows import AttentionSpec, Heads
from edgesink.spec import Activation, ModelSpec, StreamSpec

Tensor = torch.Tensor
Write = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(state [1, K, rows, D], slot [T], new rows [1, K, T, D]) -> the state after it."""


def scattered(state: Tensor, slot: Tensor, rows: Tensor) -> Tensor:
    """The state with `rows` at `slot`: a copy."""
    return state.index_copy(2, slot.long(), rows)


class TorchBuffers:
    """The states of layers that share a ring, by name [1, K, rows, D]; replaced as the decoder writes.

    Satisfies `attention.CountedBuffers` and `attention.FixedBuffers`. write: how rows reach a buffer.
    """

    def __init__(self, state: dict[str, Tensor], rows: int, index: torch.dtype, write: Write = scattered) -> None:
        self.state, self.rows = state, rows
        self._index, self._write = index, write

    def row_numbers(self) -> Tensor:
        device = next(iter(self.state.values())).device
        return torch.arange(self.rows, dtype=self._index, device=device)

    def update(self, layer: int, slot: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        for name, rows in ((names.key(layer), k), (names.value(layer), v)):
            self.state[name] = self._write(self.state[name], slot, rows)
        return self.state[names.key(layer)], self.state[names.value(layer)]


class TorchOps:
    """The vocabulary as PyTorch calls; satisfies `StreamOps` and `FrameOps`.

    Args:
        weights: name -> tensor [out, in] or [n], all of one float type.
        length: real tokens of a padded chunk; None takes them all.
        index: integer type of positions.
    """

    def __init__(self, weights: Mapping[str, Tensor], length: Tensor | None, index: torch.dtype) -> None:
        self._weights, self._length, self._index = weights, length, index
        self._float, self._device = float_type(weights), next(iter(weights.values())).device
        self.masked = -1e4 if self._float == torch.float16 else MASKED

    # ---- the decoder's vocabulary

    def embed(self, ids: Tensor, weight: str, scale: float) -> Tensor:
        rows = torch.nn.functional.embedding(ids, self._weights[weight])
        return rows if scale == 1 else rows * scale

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        if norm.kind == "layer":
            wide = wide - wide.mean(-1, keepdim=True)
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps)
        normed = scaled.to(x.dtype) * self._weights[norm.weight]
        return normed if norm.bias is None else normed + self._weights[norm.bias]

    def heads(self, x: Tensor, *projections: Projection) -> tuple[Tensor, ...]:
        return tuple(cut_heads(self._projected(x, projection), projection.heads) for projection in projections)

    def merge(self, context: Tensor, width: int) -> Tensor:
        return context.transpose(1, 2).reshape(1, context.shape[2], -1)

    def residual(self, x: Tensor, y: Tensor, product: Product, after: Norm | None) -> Tensor:
        added = self._product(y, product.weight, product.bias)
        return x + (self.norm(added, after) if after else added)

    def gated(self, x: Tensor, gate: str, up: str, activation: Activation) -> Tensor:
        return activated(self._product(x, gate), activation) * self._product(x, up)

    def plain(self, x: Tensor, up: Product, activation: Activation) -> Tensor:
        return activated(self._product(x, up.weight, up.bias), activation)

    def last(self, x: Tensor) -> Tensor:
        return x[:, -1:] if self._length is None else x[:, (self._length - 1).long()]

    def head(self, x: Tensor, weight: str) -> Tensor:
        return self._product(x, weight)

    # ---- the rings' vocabulary

    def constant(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device, self._index if array.dtype.kind == "i" else self._float)

    def arange(self, ids: Tensor) -> Tensor:
        return torch.arange(ids.shape[1], dtype=self._index, device=self._device)

    def where(self, condition: Tensor, yes: Tensor | float, no: Tensor | float) -> Tensor:
        if isinstance(yes, float) and isinstance(no, float):  # masks: of the decoder's type, not PyTorch's default
            yes, no = (torch.tensor(x, dtype=self._float, device=self._device) for x in (yes, no))
        return torch.where(condition, yes, no)

    def minimum(self, a: Tensor, b: int) -> Tensor:
        return a.clamp(max=b)

    def column(self, x: Tensor) -> Tensor:
        return x[:, None]

    def concatenate(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts)

    def append_zero(self, x: Tensor, axis: int) -> Tensor:
        return torch.nn.functional.pad(x, (0, 1) if axis == -1 else (0, 0, 0, 1))

    def angles(self, position: Tensor, frequencies: np.ndarray) -> tuple[Tensor, Tensor]:
        angle = position.double()[:, None] * torch.from_numpy(frequencies).to(self._device)
        return angle.cos(), angle.sin()

    def phase(self, x: Tensor) -> Tensor:
        return x.to(self._float)[None]

    def table(self, name: str, array: np.ndarray, row: Tensor) -> Tensor:
        return torch.from_numpy(array).to(self._device, self._float)[row.long()]

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def sink_scores(self, q: Tensor, keys: Tensor, sinks: Tensor, heads: Heads) -> Tensor:
        return products(q, keys[:, :, : int(sinks)])

    def split_mask(self, mask: Tensor, sinks: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        S = int(sinks)
        return mask[:, :S], mask[None, None, :, S:].expand(1, heads, -1, -1)

    def join_mask(self, sink_columns: Tensor, ring_columns: Tensor) -> Tensor:
        return torch.cat([sink_columns, ring_columns], dim=3)

    def capped(self, x: Tensor, cap: float) -> Tensor:
        return (x / cap).tanh() * cap

    def sloped(self, distance: Tensor, slopes: Sequence[float]) -> Tensor:
        every_head = torch.tensor(slopes, dtype=self._float, device=self._device)[:, None, None]
        return (distance.to(self._float) * -every_head)[None]

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, cap: float | None) -> Tensor:
        scores = products(q, keys)
        return self.weigh(scores if cap is None else self.capped(scores, cap), mask, values)

    def scores(self, q: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, scale: float) -> tuple[Tensor, ...]:
        T = q.shape[2]
        turned = self.rotate(q.repeat(1, 1, cos.shape[0] // T, 1), cos, sin) * scale
        return products(turned, keys).split(T, dim=2)

    def weigh(self, scores: Tensor, mask: Tensor, values: Tensor) -> Tensor:
        weights = (scores + mask).softmax(-1)
        return (grouped(weights, values) @ values).reshape(1, scores.shape[1], -1, values.shape[3])

    def _projected(self, x: Tensor, projection: Projection) -> Tensor:
        product = self._product(x, projection.weight, projection.bias)
        if projection.clip is not None:
            product = product.clamp(-projection.clip, projection.clip)
        return self.norm(product, projection.norm) if projection.norm else product

    def _product(self, x: Tensor, weight: str, bias: str | None = None) -> Tensor:
        return torch.nn.functional.linear(x, self._weights[weight], None if bias is None else self._weights[bias])


def activated(x: Tensor, activation: Activation) -> Tensor:
    """The activation of every value."""
    if activation == "silu":
        return torch.nn.functional.silu(x)
    if activation == "gelu":
        return torch.nn.functional.gelu(x)
    if activation == "gelu_tanh":
        return torch.nn.functional.gelu(x, approximate="tanh")
    raise unknown_activation(activation)


def cut_heads(x: Tensor, heads: int) -> Tensor:
    """[1, T, heads D] -> [1, heads, T, D]."""
    _, T, width = x.shape
    return x.view(1, T, heads, width // heads).transpose(1, 2)


def products(q: Tensor, keys: Tensor) -> Tensor:
    """q [1, H, T, D] with keys [1, K, n, D], grouped queries: [1, H, T, n]."""
    return (grouped(q, keys) @ keys.transpose(2, 3)).reshape(1, q.shape[1], q.shape[2], keys.shape[2])


def grouped(x: Tensor, shared: Tensor) -> Tensor:
    """[1, H, T, n] -> [1, K, G T, n]: together the heads that have one of the K of `shared` in common."""
    return x.reshape(1, shared.shape[1], -1, x.shape[3])


def float_type(weights: Mapping[str, Tensor]) -> torch.dtype:
    """The one type of all of them."""
    return next(iter(weights.values())).dtype


def empty_state(model: ModelSpec, stream: StreamSpec, dtype: torch.dtype) -> dict[str, Tensor]:
    """Zeros for every key and value buffer: name -> [1, K, rows, D], the rows of its layer's ring."""
    state = {}
    for layer in range(model.layers):
        rows = stream.layer_ring(model.rings(stream)[model.ring_of(layer, stream)]).rows
        for name in (names.key(layer), names.value(layer)):
            state[name] = torch.zeros((1, model.kv_heads, rows, model.head_dim), dtype=dtype)
    return state


Formulation = Callable[
    [TorchOps, TorchBuffers, AttentionSpec, Tensor, Tensor, Tensor, "Tensor | int"],
    Attention,
]
"""(ops, buffers, spec, ids, position, sinks, length) -> how every layer attends: `frame_attention` is one."""


def sink_corrected(
    ops: TorchOps,
    buffers: TorchBuffers,
    spec: AttentionSpec,
    ids: Tensor,
    position: Tensor,
    sinks: Tensor,
    length: Tensor | int,
) -> Attention:
    """`stream_attention` as a formulation: its chunks are never padded."""
    return stream_attention(ops, buffers, spec, ids, position, sinks)


class RingDecoder(torch.nn.Module):
    """The decoder of one stream, its state in buffers.

    Args:
        weights: name -> tensor, as `TorchOps` takes them.
        formulation: `frame_attention`, whose positions are bounded and whose chunks may be padded, or
            `sink_corrected`.
        index: integer type of positions.
    """

    def __init__(
        self,
        model: ModelSpec,
        stream: StreamSpec,
        weights: Mapping[str, Tensor],
        formulation: Formulation = frame_attention,
        index: torch.dtype = torch.int64,
    ) -> None:
        super().__init__()
        self.index = index
        self.model, self.stream, self.weights, self.formulation = model, stream, weights, formulation
        for name, buffer in empty_state(model, stream, float_type(weights)).items():
            self.register_buffer(name, buffer)

    def forward(self, ids: Tensor, position: Tensor, sinks: Tensor, length: Tensor | None = None) -> Tensor:
        """ids [1, T], sinks and length [1]: the logits after the last real id, [1, V].

        position: [1], where the ids stand; for a bounded frame the frames of the model's rings, [rings], in the
        order of `ModelSpec.rings`.
        """
        ops = TorchOps(self.weights, length, self.index)
        state = dict(self.named_buffers())
        real = ids.shape[1] if length is None else length
        views = []
        for view, at in zip(self.model.views, self._positions(position), strict=True):
            spec = AttentionSpec.of(self.model, self.stream, view)
            buffers = TorchBuffers(state, spec.rows, self.index)
            views.append(self.formulation(ops, buffers, spec, ids, at, sinks, real))
        logits = decoder(self.model, ops, by_view(self.model, views), ids)
        for name, buffer in state.items():
            getattr(self, name).copy_(buffer)
        return logits[0]

    def _positions(self, position: Tensor) -> list[Tensor]:
        """The position that each view is given: the one of all, or the one of its ring."""
        if position.shape[0] == 1:
            return [position] * len(self.model.views)
        rings = self.model.rings(self.stream)
        places = [rings.index(self.model.ring(view, self.stream)) for view in self.model.views]
        return [position[place : place + 1] for place in places]
