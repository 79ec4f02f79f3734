"""Attention over the sink + window ring, in two exact formulations, written in the emitters' vocabulary.

Both obey StreamingLLM (Xiao et al. 2023, section 3.2): a window key is seen at its true distance, a sink at a distance
that stops growing once the cache is full. Keys are rotated once and never touched again; the softmax does not care
about the order of rows, so only the mask knows which token a row holds.

- `SinkCorrected` rotates at the absolute position, its phase computed in float64, and corrects the scores of the
  sink columns through the additive mask of one fused attention. For targets with float64 and large integers (ONNX).
- `BoundedFrame` rotates at the row, and queries three times: at their row, one ring later, and where a sink sees them.
  Every number always stays below sinks + 2 rings + chunk. For targets without (Core ML, Core AI).

A chunk is written first and attended after: with window + T - 1 ring rows every query still finds its whole window.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edgesink.errors import BadOption
from edgesink.export.graph import Ops, Value
from edgesink.spec import ModelSpec, StreamSpec

MASKED = -1e30  # finite: an all-masked row must not become NaN


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


class SinkCorrectedOps(IntegerOps, Protocol):
    """What `SinkCorrected` needs more: float64 phases, rotation and fused attention."""

    def row_numbers(self) -> Value:
        """0, 1 … of the rows that the state is given with, integer [rows]: the stream's, or as many as tokens need."""

    def angles(self, position: Value, frequencies: np.ndarray) -> tuple[Value, Value]:
        """cos and sin of position [T] x frequencies [D/2], float64 [T, D/2]."""

    def phase(self, x: Value) -> Value:
        """float64 [T, D/2] -> float32 [1, T, D/2], as `rotate` takes it."""

    def rotate(self, x: Value, cos: Value, sin: Value) -> Value:
        """Rotary embedding, halves paired; linear in cos and sin: [1, heads, T, D]."""

    def sink_scores(self, q: Value, keys: Value, sinks: Value) -> Value:
        """q [1, H, T, D] against the first `sinks` rows of keys [1, K, rows, D]: [1, H, T, S]."""

    def split_mask(self, mask: Value, sinks: Value, heads: int) -> tuple[Value, Value]:
        """[T, rows] -> its sink columns [T, S] and its ring columns for every head [1, H, T, R]."""

    def join_mask(self, sink_columns: Value, ring_columns: Value) -> Value:
        """[1, H, T, S] and [1, H, T, R] -> [1, H, T, rows]."""

    def attend(self, q: Value, keys: Value, values: Value, mask: Value) -> Value:
        """softmax(q k^T + mask) v, grouped queries, q scaled already; mask [T, rows] or [1, H, T, rows]."""


class SinkCorrected:
    """One query at its absolute position; sink columns get (q_sink - q) · k through the mask.

    Exact while float64 holds the phase: 6e10 tokens. With `positions="original"` nothing is corrected and a sink's
    distance grows with the stream.
    """

    def __init__(
        self, ops: SinkCorrectedOps, model: ModelSpec, stream: StreamSpec, ids: Value, position: Value, sinks: Value
    ) -> None:
        self.ops, self.sinks = ops, sinks
        self.scale = model.head_dim**-0.5
        token = position + ops.arange(ids)  # [T]
        slots = stream.rows - sinks  # [1], R
        self.slot = ops.where(token < sinks, token, sinks + (token - sinks) % slots)  # [T]

        newest = token[-1:]  # [1], the last token of this chunk
        row = ops.row_numbers()
        held = ops.where(row < sinks, row, newest - (newest - row) % slots)  # [rows], below sinks: never written
        query = ops.column(token)
        window = (held > query - (stream.capacity - sinks)) & (held >= sinks)
        visible = (held <= query) & ((row < sinks) | window)  # [T, rows]
        mask = ops.where(visible, 0.0, MASKED)

        frequencies = model.rope.inverse_frequencies(model.head_dim)
        cos, sin = ops.angles(token, frequencies)
        self.phase = ops.phase(cos), ops.phase(sin)
        # RoPE is linear in its cos and sin: the softmax scale rides on the query's, where it costs nothing a layer
        self.query_phase = ops.phase(cos * self.scale), ops.phase(sin * self.scale)
        self.corrected = stream.positions == "cache"
        if self.corrected:
            sink_cos, sink_sin = ops.angles(ops.minimum(token, stream.capacity - 1), frequencies)
            self.shift = ops.phase((sink_cos - cos) * self.scale), ops.phase((sink_sin - sin) * self.scale)
            self.sink_mask, self.ring_mask = ops.split_mask(mask, sinks, model.heads)
        else:
            self.mask = mask

    def __call__(self, layer: int, q: Value, k: Value, v: Value) -> Value:
        """The context of one layer, [1, H, T, D]; its state is written on the way."""
        ops = self.ops
        keys, values = ops.update(layer, self.slot, ops.rotate(k, *self.phase), v)
        if self.corrected:
            # and rotating by the difference gives scale (q_sink - q) at once
            correction = ops.sink_scores(ops.rotate(q, *self.shift), keys, self.sinks)  # [1, H, T, S]
            mask = ops.join_mask(correction + self.sink_mask, self.ring_mask)
        else:
            mask = self.mask
        return ops.attend(ops.rotate(q, *self.query_phase), keys, values, mask)


class BoundedFrameOps(IntegerOps, Protocol):
    """What `BoundedFrame` needs more: table look-ups, queries turned several ways, the choice among their scores."""

    rows: int
    """Rows of a state buffer: those of the stream, or more; what is beyond is never written and never seen."""

    masked: float
    """What is added to the score of a row that is not seen: far below any score, and finite."""

    def concatenate(self, *parts: Value) -> Value:
        """Integers [n] one behind the other."""

    def table(self, array: np.ndarray, row: Value) -> Value:
        """Rows [n] of a float table [rows, D/2]: [n, D/2]."""

    def rotate(self, x: Value, cos: Value, sin: Value) -> Value:
        """Rotary embedding, halves paired; cos and sin [T, D/2]: [1, heads, T, D]."""

    def scores(self, q: Value, cos: Value, sin: Value, keys: Value, scale: float) -> tuple[Value, ...]:
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
        model: ModelSpec,
        stream: StreamSpec,
        ids: Value,
        position: Value,
        sinks: Value,
        length: Value | int,
    ) -> None:
        if stream.positions != "cache":
            raise BadOption("positions 'original' on this target", "cache: a distance that grows has no bounded frame")
        self.ops = ops
        self.scale = model.head_dim**-0.5
        slots = stream.rows - sinks  # [1], R
        end = sinks + slots
        token = position + ops.arange(ids)  # [T], below sinks + 2 R + T
        one_lap = ops.where(token >= end, slots, 0)
        two_laps = ops.where(token >= end + slots, slots, 0)
        self.slot = token - one_lap - two_laps  # [T]

        numbers = np.arange(ops.rows)
        never = 8 * stream.rows  # later than any token: rows beyond the stream's are not seen
        row = ops.constant(np.where(numbers < stream.rows, numbers, never))
        newest = position + length - 1  # [1]
        later = ops.where(row + slots <= newest, slots, 0) + ops.where(row + slots + slots <= newest, slots, 0)
        is_sink = row < sinks
        held = ops.where(is_sink, row, row + later)  # [rows]; above `newest`: never written
        query = ops.column(token)
        visible = (held <= query) & (is_sink | (held > query - (stream.capacity - sinks)))  # [T, rows]
        self.mask = ops.where(visible, 0.0, ops.masked)
        self.same_lap = row <= ops.column(self.slot)  # [T, rows]
        self.is_sink = is_sink

        frequencies = model.rope.inverse_frequencies(model.head_dim)
        angle = np.arange(2 * stream.rows)[:, None] * frequencies  # [2 rows, D/2]
        cos, sin = np.cos(angle), np.sin(angle)
        queries = ops.concatenate(self.slot, self.slot + slots, ops.minimum(token, stream.capacity - 1))  # [3 T]
        self.key_phase = ops.table(cos, self.slot), ops.table(sin, self.slot)
        self.query_phases = ops.table(cos, queries), ops.table(sin, queries)

    def __call__(self, layer: int, q: Value, k: Value, v: Value) -> Value:
        """The context of one layer, [1, H, T, D]; its state is written on the way."""
        ops = self.ops
        keys, values = ops.update(layer, self.slot, ops.rotate(k, *self.key_phase), v)
        here, lap_later, sink = ops.scores(q, *self.query_phases, keys, self.scale)  # [1, H, T, rows] each
        scores = ops.where(self.is_sink, sink, ops.where(self.same_lap, here, lap_later))
        return ops.weigh(scores, self.mask, values)
