"""The slow ring: a cache for transformers' models that keeps sinks and a window, the obvious way.

Owns what a layer keeps and how it is turned: keys and values of the tokens kept, un-rotated, of which the oldest that
is not a sink is dropped, and the rotation of all of them for every token. A model runs on it with its rotary
embedding made the identity. Its query then stands at angle 0, so a key is turned back by its distance from the query:
rotary scores depend on differences of positions only. Shares no code with `ring`, the exporter or the runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch  # noqa: TID253  (the cache of a PyTorch model; `reference` imports this module lazily)
from transformers.cache_utils import Cache, DynamicLayer  # noqa: TID253

Tensor = torch.Tensor


@dataclass(frozen=True)
class Rotary:
    """A rotary embedding with halves paired, of the first dimensions of a head."""

    frequencies: Tensor  # radians a token of each pair, float64 [P]; 2 P dimensions turn
    amplitude: float  # of cosine and sine: YaRN, LongRoPE

    def phases(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine, float64 [n, P], of keys at `distances` behind the query.

        The amplitude is there twice: the query's is put on the keys.
        """
        angle = distances.double()[:, None] * -self.frequencies.to(distances.device)
        return angle.cos() * self.amplitude**2, angle.sin() * self.amplitude**2


def turned(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Keys [1, K, n, D] rotated by the phases [n, P]; dimensions from 2 P on stay."""
    pairs = cos.shape[-1]
    first, second, rest = keys[..., :pairs], keys[..., pairs : 2 * pairs], keys[..., 2 * pairs :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


class Phases:
    """The phases of one rotary embedding for the tokens that a layer keeps; the last ones are remembered."""

    def __init__(self, rotary: Rotary, original: bool) -> None:
        self._rotary, self._original = rotary, original
        self._known: tuple[Any, tuple[Tensor, Tensor]] | None = None

    def of(self, keys: Tensor, sinks: int, evicted: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine [n, P] in the type of keys [1, K, n, D], of which the first `sinks` are sinks.

        Positions in the cache close the gap that evicted tokens leave behind the sinks; original ones keep it.
        """
        gap = evicted if self._original and sinks else 0
        key = (keys.shape[-2], sinks, gap)
        if self._known is None or self._known[0] != key:
            distances = torch.arange(key[0] - 1, -1, -1, device=keys.device)
            distances[:sinks] += gap
            cos, sin = self._rotary.phases(distances)
            self._known = key, (cos.to(keys.dtype), sin.to(keys.dtype))
        return self._known[1]


class KeptLayer(DynamicLayer):
    """The keys and values [1, K, n, D] that one layer keeps, and turns for the newest token.

    Args:
        sinks, window: how many first and most recent tokens are kept.
        phases: of its rotary embedding; None if it has none.
        is_sliding: the layer was trained with a window of its own (transformers makes it a mask of its own).
    """

    def __init__(self, sinks: int, window: int, phases: Phases | None, is_sliding: bool = False) -> None:
        super().__init__()
        self.is_sliding = is_sliding
        self._sinks, self._window, self._phases = sinks, window, phases
        self._evicted = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take in one token; the keys, turned, and the values that it sees."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        drop = self._sinks if super().get_seq_length() == self._sinks + self._window else None
        self._evicted += drop is not None
        self.keys, self.values = _kept(self.keys, key_states, drop), _kept(self.values, value_states, drop)
        if self._phases is None:
            return self.keys, self.values
        return turned(self.keys, *self._phases.of(self.keys, self._sinks, self._evicted)), self.values

    def get_seq_length(self) -> int:
        """The tokens that the next one will see beside itself; ALiBi and masks are made from it."""
        return min(super().get_seq_length(), self._sinks + self._window - 1)

    def fill(self) -> None:
        """Repeat the one token that it keeps until there is room for one more only."""
        assert self.keys is not None, "nothing is kept yet"
        assert self.values is not None, "nothing is kept yet"
        more = self._sinks + self._window - 1
        self.keys, self.values = self.keys.repeat(1, 1, more, 1), self.values.repeat(1, 1, more, 1)


def slow_ring(
    sinks: int,
    window: int,
    own_windows: Sequence[int | None],
    rotaries: Sequence[Rotary | None],
    original: bool = False,
) -> Cache:
    """An empty cache of a layer each.

    Args:
        sinks, window: of the stream.
        own_windows: the sliding window that a layer was trained with; None if it has none. One that is smaller than
            sinks + window is kept as it is, without sinks.
        rotaries: how a layer turns its keys; None if it does not.
        original: positions are those in the stream, not those in the cache.
    """
    phases = {id(rotary): Phases(rotary, original) for rotary in rotaries if rotary is not None}
    layers: list[Any] = []
    for own, rotary in zip(own_windows, rotaries, strict=True):
        kept = (sinks, window) if own is None or own >= sinks + window else (0, own)
        layers.append(KeptLayer(*kept, phases.get(id(rotary)), own is not None))
    return Cache(layers=layers)


def _kept(rows: Tensor | None, new: Tensor, drop: int | None) -> Tensor:
    """Rows [1, K, n, D] of the tokens kept, without the one at `drop`, and the newest behind them.

    One block a layer. A list of a tensor for each token has been seen to take gigabytes: between small blocks that
    stay, the allocator finds no room for copies of them all that are larger at every step.
    """
    if rows is None or not rows.numel():
        return new
    old = [rows] if drop is None else [rows[..., :drop, :], rows[..., drop + 1 :, :]]
    return torch.cat([*old, new], dim=-2)
