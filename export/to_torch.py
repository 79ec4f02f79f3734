"""The decoder run with real tensors: what the emitters' vocabulary means in PyTorch.

Owns an executable decoder in both formulations of `attention`, in any float type, its states as buffers. It is how
the formulations are shown to be exact (float64 against the oracle), and what Core AI is exported from. Nothing here
is fast, and nothing of the oracle is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch  # noqa: TID253  (this module is PyTorch's side of the vocabulary; what imports it does so lazily)

from edgesink import names
from edgesink.export.attention import MASKED, BoundedFrame, SinkCorrected
from edgesink.export.graph import decoder
from edgesink.spec import ModelSpec, StreamSpec

Tensor = torch.Tensor
Write = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(state [1, K, rows, D], slot [T], new rows [1, K, T, D]) -> the state after it."""


def scattered(state: Tensor, slot: Tensor, rows: Tensor) -> Tensor:
    """The state with `rows` at `slot`: a copy."""
    return state.index_copy(2, slot.long(), rows)


class TorchOps:
    """The vocabulary as PyTorch calls; satisfies `SinkCorrectedOps` and `BoundedFrameOps`.

    Args:
        model, stream: what is run and how it streams.
        weights: name -> tensor [out, in] or [n], all of one float type.
        state: name -> buffer [1, K, rows, D]; replaced as the decoder writes.
        length: real tokens of a padded chunk; None takes them all.
        write: how rows reach a buffer.
        index: integer type of positions.
    """

    def __init__(
        self,
        model: ModelSpec,
        stream: StreamSpec,
        weights: Mapping[str, Tensor],
        state: dict[str, Tensor],
        length: Tensor | None = None,
        write: Write = scattered,
        index: torch.dtype = torch.int64,
    ) -> None:
        self.model, self.weights, self.state, self.length = model, weights, state, length
        self.rows = stream.rows
        self._write, self._index = write, index
        self._float = weights["norm"].dtype
        self.masked = -1e4 if self._float == torch.float16 else MASKED

    # ---- the decoder's vocabulary

    def embed(self, ids: Tensor) -> Tensor:
        return torch.nn.functional.embedding(ids, self.weights["embedding"])

    def norm(self, x: Tensor, weight: str) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.model.norm_eps)
        return scaled.to(x.dtype) * self.weights[weight]

    def heads(self, x: Tensor, *weights: tuple[str, int]) -> tuple[Tensor, ...]:
        products = self._linear(x, *(weight for weight, _ in weights))
        T, D = x.shape[1], self.model.head_dim
        counts = [count for _, count in weights]
        return tuple(p.view(1, T, n, D).transpose(1, 2) for p, n in zip(products, counts, strict=True))

    def merge(self, context: Tensor) -> Tensor:
        return context.transpose(1, 2).reshape(1, context.shape[2], -1)

    def add_product(self, x: Tensor, y: Tensor, weight: str) -> Tensor:
        return x + self._linear(y, weight)[0]

    def gated(self, x: Tensor, gate: str, up: str) -> Tensor:
        products = self._linear(x, gate, up)
        return torch.nn.functional.silu(products[0]) * products[1]

    def last(self, x: Tensor) -> Tensor:
        return x[:, -1:] if self.length is None else x[:, (self.length - 1).long()]

    def head(self, x: Tensor) -> Tensor:
        return self._linear(x, "head")[0]

    def update(self, layer: int, slot: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        for name, rows in ((names.key(layer), k), (names.value(layer), v)):
            self.state[name] = self._write(self.state[name], slot, rows)
        return self.state[names.key(layer)], self.state[names.value(layer)]

    # ---- the rings' vocabulary

    def constant(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._index if array.dtype.kind == "i" else self._float)

    def arange(self, ids: Tensor) -> Tensor:
        return torch.arange(ids.shape[1], dtype=self._index)

    def where(self, condition: Tensor, yes: Tensor | float, no: Tensor | float) -> Tensor:
        if isinstance(yes, float) and isinstance(no, float):  # masks: of the decoder's type, not PyTorch's default
            yes, no = torch.tensor(yes, dtype=self._float), torch.tensor(no, dtype=self._float)
        return torch.where(condition, yes, no)

    def minimum(self, a: Tensor, b: int) -> Tensor:
        return a.clamp(max=b)

    def column(self, x: Tensor) -> Tensor:
        return x[:, None]

    def concatenate(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts)

    def row_numbers(self) -> Tensor:
        return torch.arange(self.rows, dtype=self._index)

    def angles(self, position: Tensor, frequencies: np.ndarray) -> tuple[Tensor, Tensor]:
        angle = position.double()[:, None] * torch.from_numpy(frequencies)
        return angle.cos(), angle.sin()

    def phase(self, x: Tensor) -> Tensor:
        return x.to(self._float)[None]

    def table(self, array: np.ndarray, row: Tensor) -> Tensor:
        return torch.from_numpy(array).to(self._float)[row.long()]

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def sink_scores(self, q: Tensor, keys: Tensor, sinks: Tensor) -> Tensor:
        return self._products(q, keys[:, :, : int(sinks)])

    def split_mask(self, mask: Tensor, sinks: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        S = int(sinks)
        return mask[:, :S], mask[None, None, :, S:].expand(1, heads, -1, -1)

    def join_mask(self, sink_columns: Tensor, ring_columns: Tensor) -> Tensor:
        return torch.cat([sink_columns, ring_columns], dim=3)

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        return self.weigh(self._products(q, keys), mask, values)

    def scores(self, q: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, scale: float) -> tuple[Tensor, ...]:
        T = q.shape[2]
        turns = cos.shape[0] // T
        products = self._products(self.rotate(q.repeat(1, 1, turns, 1), cos, sin) * scale, keys)
        return products.split(T, dim=2)

    def weigh(self, scores: Tensor, mask: Tensor, values: Tensor) -> Tensor:
        K = self.model.kv_heads
        weights = (scores + mask).softmax(-1)
        grouped = weights.reshape(1, K, -1, weights.shape[-1])  # [1, K, G T, rows]
        return (grouped @ values).reshape(1, self.model.heads, -1, self.model.head_dim)

    def _linear(self, x: Tensor, *weights: str) -> tuple[Tensor, ...]:
        held = ["embedding" if w == "head" and self.model.tied else w for w in weights]
        return tuple(torch.nn.functional.linear(x, self.weights[weight]) for weight in held)

    def _products(self, q: Tensor, keys: Tensor) -> Tensor:
        """q [1, H, T, D] with keys [1, K, n, D], grouped queries: [1, H, T, n]."""
        grouped = q.reshape(1, self.model.kv_heads, -1, self.model.head_dim)  # [1, K, G T, D]
        return (grouped @ keys.transpose(2, 3)).reshape(1, self.model.heads, q.shape[2], keys.shape[2])


def empty_state(model: ModelSpec, stream: StreamSpec, dtype: torch.dtype) -> dict[str, Tensor]:
    """Zeros for every key and value buffer: name -> [1, K, rows, D]."""
    shape = (1, model.kv_heads, stream.rows, model.head_dim)
    return {name: torch.zeros(shape, dtype=dtype) for name in names.states(model.layers)}


class RingDecoder(torch.nn.Module):
    """The decoder of one stream, its state in buffers.

    Args:
        weights: name -> tensor, as `TorchOps` takes them.
        formulation: `SinkCorrected`, or `BoundedFrame`, whose positions are bounded and whose chunks may be padded.
        index: integer type of positions.
    """

    def __init__(
        self,
        model: ModelSpec,
        stream: StreamSpec,
        weights: Mapping[str, Tensor],
        formulation: Any = BoundedFrame,
        index: torch.dtype = torch.int64,
    ) -> None:
        super().__init__()
        self.index = index
        self.model, self.stream, self.weights, self.formulation = model, stream, weights, formulation
        for name, buffer in empty_state(model, stream, weights["norm"].dtype).items():
            self.register_buffer(name, buffer)

    def forward(self, ids: Tensor, position: Tensor, sinks: Tensor, length: Tensor | None = None) -> Tensor:
        """ids [1, T], position, sinks and length [1]: the logits after the last real id, [1, V]."""
        state = dict(self.named_buffers())
        ops = TorchOps(self.model, self.stream, self.weights, state, length, index=self.index)
        common = (ops, self.model, self.stream, ids, position, sinks)
        if self.formulation is SinkCorrected:
            attention: Any = SinkCorrected(*common)
        else:
            attention = BoundedFrame(*common, ids.shape[1] if length is None else length)
        logits = decoder(self.model, ops, attention, ids)
        for name, buffer in state.items():
            getattr(self, name).copy_(buffer)
        return logits[0]
