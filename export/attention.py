"""Attention over the sink + window ring, in two exact formulations, written in the emitters' vocabulary.

Both obey StreamingLLM (Xiao et al. 2023, section 3.2): a window key is seen at its true distance, a sink at a distance
that stops growing once the cache is full. Keys are rotated once and never touched again; the softmax does not care
about the order of rows, so only the mask knows which token a row holds.

- `SinkCorrected` rotates at the absolute position, its phase computed in float64, and corrects the scores of the
  sink columns through the additive mask of one fused attention. For targets with float64 and large integers (ONNX).
- `BoundedFrame` rotates at the row, and queries up to three times: at their row, one ring later, and where a sink sees
  them.
  Every number stays below sinks + 2 rings + chunk, however long the stream. For targets without (Core ML, Core AI).

A chunk is written first and attended after: with window + T - 1 ring rows every query still finds its whole window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgesink.errors import BadOption
from edgesink.export.graph import Attention, Ops, Value
from edgesink.spec import ModelSpec, Positions, StreamSpec, View

MASKED = -1e30  # finite: an all-masked row must not become NaN
NO_SINKS = np.zeros(1, np.int64)


@dataclass(frozen=True)
class Heads:
    """Grouped queries: how many heads there are, and how wide each is."""

    queries: int  # H
    keys: int  # K, and as many of values; divides H
    dim: int  # D


@dataclass(frozen=True, eq=False)
class AttentionSpec:
    """How layers of one view attend, in numbers: their heads, their phases, their ring."""

    heads: Heads
    scale: float  # of q · k
    frequencies: np.ndarray  # radians a token of each pair of dimensions, float64 [D/2]
    amplitudes: np.ndarray  # of their cosine and sine, float64 [D/2]
    capacity: int  # C, tokens that a token sees at most
    rows: int  # of a state buffer that the ring takes: sinks + R
    sinks: bool  # whether the ring has the stream's sinks; without, it is the layers' own sliding window
    positions: Positions  # how far a sink seems
    off_by_one: bool = False  # a row of zeros is seen beside the ring's: softmax exp(x) / (1 + sum exp(x))

    @classmethod
    def of(cls, model: ModelSpec, stream: StreamSpec, view: View) -> AttentionSpec:
        """That of the layers of one view."""
        ring = model.ring(view, stream)
        return cls(
            heads=Heads(model.heads, model.kv_heads, model.head_dim),
            scale=model.scale,
            frequencies=np.array(view.rotary.frequencies),
            amplitudes=view.rotary.amplitudes,
            capacity=ring.capacity,
            rows=stream.layer_ring(ring).rows,
            sinks=ring.sinks,
            positions=stream.positions,
            off_by_one=model.off_by_one,
        )


def by_view(model: ModelSpec, views: Sequence[Attention] | Mapping[int, Attention]) -> Attention:
    """How every layer attends, given how those of each view do."""
    return lambda layer, q, k, v: views[model.view_of[layer]](layer, q, k, v)


class Buffers(Protocol):
    """The key and value buffers of layers that share a ring; other layers are not in them."""

    def update(self, layer: int, slot: Value, k: Value, v: Value) -> tuple[Value, Value]:
        """Write rows k, v [1, K, T, D] at `slot` [T]; the whole buffers after it, [1, K, rows, D] each."""


class CountedBuffers(Buffers, Protocol):
    """Buffers as long as the runner makes them."""

    def row_numbers(self) -> Value:
        """0, 1 … of the rows that they are given with, integer [rows]: the ring's, or as many as tokens need."""


class FixedBuffers(Buffers, Protocol):
    """Buffers of a length that is known to the exporter."""

    @property
    def rows(self) -> int:
        """Those of the ring, or more; what is beyond is never written and never seen."""


class IntegerOps(Ops, Protocol):
    """What both formulations need in addition to the decoder's vocabulary."""

    def constant(self, array: np.ndarray) -> Value:
        """A constant of the target's integer or float type."""

    def arange(self, ids: Value) -> Value:
        """0 … T-1 for ids [1, T], or anything [1, T, …]: integer [T]."""

    def where(self, condition: Value, yes: Value, no: Value) -> Value:
        """Elementwise choice; numbers broadcast."""

    def minimum(self, a: Value, b: int) -> Value:
        """Elementwise."""

    def column(self, x: Value) -> Value:
        """[T] -> [T, 1]."""

    def rotate(self, x: Value, cos: Value, sin: Value) -> Value:
        """Rotary embedding, halves paired; linear in cos and sin: [1, heads, T, D]."""


class SinkCorrectedOps(IntegerOps, Protocol):
    """What `SinkCorrected` needs more: float64 phases and fused attention."""

    def angles(self, position: Value, frequencies: np.ndarray) -> tuple[Value, Value]:
        """cos and sin of position [T] x frequencies [D/2], float64 [T, D/2]."""

    def phase(self, x: Value) -> Value:
        """float64 [T, D/2] -> float32 [1, T, D/2], as `rotate` takes it."""

    def sink_scores(self, q: Value, keys: Value, sinks: Value, heads: Heads) -> Value:
        """q [1, H, T, D] against the first `sinks` rows of keys [1, K, rows, D]: [1, H, T, S]."""

    def split_mask(self, mask: Value, sinks: Value, heads: int) -> tuple[Value, Value]:
        """[T, rows] -> its sink columns [T, S] and its ring columns for every head [1, H, T, R]."""

    def join_mask(self, sink_columns: Value, ring_columns: Value) -> Value:
        """[1, H, T, S] and [1, H, T, R] -> [1, H, T, rows]."""

    def append_zero(self, x: Value, axis: int) -> Value:
        """A zero behind the last along the axis, -1 or -2."""

    def attend(self, q: Value, keys: Value, values: Value, mask: Value) -> Value:
        """softmax(q k^T + mask) v, grouped queries, q scaled already; mask [T, rows] or [1, H, T, rows]."""


class SinkCorrected:
    """One query at its absolute position; sink columns get (q_sink - q) · k through the mask.

    Exact while float64 holds the phase: 6e10 tokens. With `positions="original"` nothing is corrected and a sink's
    distance grows with the stream.
    """

    def __init__(
        self,
        ops: SinkCorrectedOps,
        buffers: CountedBuffers,
        spec: AttentionSpec,
        ids: Value,
        position: Value,
        sinks: Value,
    ) -> None:
        sinks = sinks if spec.sinks else ops.constant(NO_SINKS)
        self.ops, self.buffers, self.spec, self.sinks = ops, buffers, spec, sinks
        token = position + ops.arange(ids)  # [T]
        slots = spec.rows - sinks  # [1], R
        self.slot = ops.where(token < sinks, token, sinks + (token - sinks) % slots)  # [T]
        mask = self._mask(token, slots)  # [T, rows]

        cos, sin = self._angles(token)
        self.phase = ops.phase(cos), ops.phase(sin)
        # RoPE is linear in its cos and sin: the softmax scale rides on the query's, where it costs nothing a layer
        self.query_phase = ops.phase(cos * spec.scale), ops.phase(sin * spec.scale)
        self.corrected = spec.sinks and spec.positions == "cache"
        if self.corrected:
            sink_cos, sink_sin = self._angles(ops.minimum(token, spec.capacity - 1))
            self.shift = ops.phase((sink_cos - cos) * spec.scale), ops.phase((sink_sin - sin) * spec.scale)
            self.sink_mask, self.ring_mask = ops.split_mask(mask, sinks, spec.heads.queries)
        else:
            self.mask = mask

    def _angles(self, position: Value) -> tuple[Value, Value]:
        """cos and sin at position [T], each pair with its amplitude: float64 [T, D/2]."""
        cos, sin = self.ops.angles(position, self.spec.frequencies)
        if (self.spec.amplitudes != 1).any():
            amplitudes = self.ops.constant(self.spec.amplitudes)
            cos, sin = cos * amplitudes, sin * amplitudes
        return cos, sin

    def _mask(self, token: Value, slots: Value) -> Value:
        """What is added to the scores: [T, rows], 0 where the token sees the row."""
        ops, sinks = self.ops, self.sinks
        newest = token[-1:]  # [1], the last token of this chunk
        row = self.buffers.row_numbers()
        held = ops.where(row < sinks, row, newest - (newest - row) % slots)  # [rows], below sinks: never written
        query = ops.column(token)
        window = (held > query - (self.spec.capacity - sinks)) & (held >= sinks)
        visible = (held <= query) & ((row < sinks) | window)  # [T, rows]
        return ops.where(visible, 0.0, MASKED)

    def __call__(self, layer: int, q: Value, k: Value, v: Value) -> Value:
        """The context of one layer, [1, H, T, D]; its state is written on the way."""
        ops = self.ops
        keys, values = self.buffers.update(layer, self.slot, ops.rotate(k, *self.phase), v)
        if self.corrected:
            # and rotating by the difference gives scale (q_sink - q) at once
            turned = ops.rotate(q, *self.shift)
            correction = ops.sink_scores(turned, keys, self.sinks, self.spec.heads)  # [1, H, T, S]
            mask = ops.join_mask(correction + self.sink_mask, self.ring_mask)
        else:
            mask = self.mask
        if self.spec.off_by_one:
            keys, values, mask = ops.append_zero(keys, -2), ops.append_zero(values, -2), ops.append_zero(mask, -1)
        return ops.attend(ops.rotate(q, *self.query_phase), keys, values, mask)


class BoundedFrameOps(IntegerOps, Protocol):
    """What `BoundedFrame` needs more: table look-ups, queries turned several ways, the choice among their scores."""

    masked: float
    """What is added to the score of a row that is not seen: far below any score, and finite."""

    def concatenate(self, *parts: Value) -> Value:
        """Integers [n] one behind the other."""

    def table(self, name: str, array: np.ndarray, row: Value) -> Value:
        """Rows [n] of a float table [rows, D/2]: [n, D/2]. The name is for people; tables that differ stay apart."""

    def scores(self, q: Value, cos: Value, sin: Value, keys: Value, scale: float) -> Sequence[Value]:
        """scale q k^T, grouped queries, for q turned by each T rows of cos and sin [n T, D/2]: n x [1, H, T, rows]."""

    def weigh(self, scores: Value, mask: Value, values: Value) -> Value:
        """softmax(scores + mask) v: [1, H, T, D]."""


class BoundedFrame:
    """Keys rotated at their row; the query rotated at its row, one ring later and at its place before the sinks.

    `position` is `Ring.frame(position)`, so nothing here grows. Rows past `length` may be padding: they are written to
    rows that no query of this chunk or the next sees before the real token is there.
    """

    def __init__(
        self,
        ops: BoundedFrameOps,
        buffers: FixedBuffers,
        spec: AttentionSpec,
        ids: Value,
        position: Value,
        sinks: Value,
        length: Value | int,
    ) -> None:
        if spec.positions != "cache":
            raise BadOption("positions 'original' on this target", "cache: a distance that grows has no bounded frame")
        if spec.off_by_one:
            raise BadOption("a softmax off by one on this target", "target onnx")
        sinks = sinks if spec.sinks else ops.constant(NO_SINKS)
        self.ops, self.buffers, self.spec, self.sinks = ops, buffers, spec, sinks
        slots = spec.rows - sinks  # [1], R
        end = sinks + slots
        token = position + ops.arange(ids)  # [T], below sinks + 2 R + T
        one_lap = ops.where(token >= end, slots, 0)
        two_laps = ops.where(token >= end + slots, slots, 0)
        self.slot = token - one_lap - two_laps  # [T]
        self._see(token, position, length, slots)

        angle = np.arange(2 * spec.rows)[:, None] * spec.frequencies  # [2 rows, D/2]
        cos = f"rope.{len(angle)}.cos", np.cos(angle) * spec.amplitudes
        sin = f"rope.{len(angle)}.sin", np.sin(angle) * spec.amplitudes
        places = [self.slot, self.slot + slots]
        if spec.sinks:
            places.append(ops.minimum(token, spec.capacity - 1))
        queries = ops.concatenate(*places)  # [2 T], and T more where sinks are seen
        self.key_phase = ops.table(*cos, self.slot), ops.table(*sin, self.slot)
        self.query_phases = ops.table(*cos, queries), ops.table(*sin, queries)

    def _see(self, token: Value, position: Value, length: Value | int, slots: Value) -> None:
        """Which rows a token sees and how: `mask` and `same_lap` [T, rows], `is_sink` [rows]."""
        ops, sinks, ring = self.ops, self.sinks, self.spec.rows
        numbers = np.arange(self.buffers.rows)
        never = 8 * ring  # later than any token: rows beyond the ring's are not seen
        row = ops.constant(np.where(numbers < ring, numbers, never))
        newest = position + length - 1  # [1]
        later = ops.where(row + slots <= newest, slots, 0) + ops.where(row + slots + slots <= newest, slots, 0)
        is_sink = row < sinks
        held = ops.where(is_sink, row, row + later)  # [rows]; above `newest`: never written
        query = ops.column(token)
        visible = (held <= query) & (is_sink | (held > query - (self.spec.capacity - sinks)))  # [T, rows]
        self.mask = ops.where(visible, 0.0, ops.masked)
        self.same_lap = row <= ops.column(self.slot)  # [T, rows]
        self.is_sink = is_sink

    def __call__(self, layer: int, q: Value, k: Value, v: Value) -> Value:
        """The context of one layer, [1, H, T, D]; its state is written on the way."""
        ops = self.ops
        keys, values = self.buffers.update(layer, self.slot, ops.rotate(k, *self.key_phase), v)
        here, lap_later, *sink = ops.scores(q, *self.query_phases, keys, self.spec.scale)  # [1, H, T, rows] each
        scores = ops.where(self.same_lap, here, lap_later)
        if sink:
            scores = ops.where(self.is_sink, sink[0], scores)
        return ops.weigh(scores, self.mask, values)
