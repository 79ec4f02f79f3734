"""Attention over the sink + window ring, in three exact formulations, written in the emitters' vocabulary.

All obey StreamingLLM (Xiao et al. 2023, section 3.2): a window key is seen at its true distance, a sink at a distance
that stops growing once the cache is full. Keys are rotated once and never touched again; the softmax does not care
about the order of rows, so only the mask knows which token a row holds.

- `SinkCorrected` rotates at the absolute position, its phase computed in float64, and corrects the scores of the
  sink columns through the additive mask of one fused attention. For targets with float64 and large integers (ONNX).
- `BoundedFrame` rotates at the row, and queries up to three times: at their row, one ring later, and where a sink sees
  them.
  Every number stays below sinks + 2 rings + chunk, however long the stream. For targets without (Core ML, Core AI).
- `Alibi` rotates nothing: a score loses what its distance costs (Press et al. 2022). Either numbering of tokens serves.

Which rows a token is written to and sees is `rows`'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from edgesink.errors import BadOption
from edgesink.export.graph import Attention, Value
from edgesink.export.rows import AttentionSpec, Buffers, CountedBuffers, FixedBuffers, Heads, IntegerOps, Rows
from edgesink.spec import ModelSpec

MASKED = -1e30  # finite: an all-masked row must not become NaN


def by_view(model: ModelSpec, views: Sequence[Attention] | Mapping[int, Attention]) -> Attention:
    """How every layer attends, given how those of each view do."""
    return lambda layer, q, k, v: views[model.view_of[layer]](layer, q, k, v)


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

    def capped(self, x: Value, cap: float) -> Value:
        """cap tanh(x / cap), elementwise."""

    def attend(self, q: Value, keys: Value, values: Value, mask: Value, cap: float | None) -> Value:
        """softmax(s + mask) v, s = q k^T, capped if there is a cap: grouped queries, q scaled already.

        The mask is [T, rows] or [1, H, T, rows].
        """


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
        oldest: Value | None = None,
    ) -> None:
        self.ops, self.buffers, self.spec, self.sinks = ops, buffers, spec, sinks
        rows = Rows.of_stream(ops, buffers, spec, ids, position, sinks, oldest)
        self.slot = rows.slot
        mask = ops.where(rows.visible, 0.0, MASKED)  # [T, rows]

        cos, sin = self._angles(rows.token)
        self.phase = ops.phase(cos), ops.phase(sin)
        # RoPE is linear in its cos and sin: the softmax scale rides on the query's, where it costs nothing a layer
        self.query_phase = ops.phase(cos * spec.scale), ops.phase(sin * spec.scale)
        self.corrected = spec.sinks and spec.positions == "cache"
        if self.corrected:
            at_sinks = self._angles(ops.minimum(rows.token, spec.capacity - 1))
            if spec.cap is None:
                at_sinks = tuple(sink - own for sink, own in zip(at_sinks, (cos, sin), strict=True))
            self.sink_phase = tuple(ops.phase(x * spec.scale) for x in at_sinks)
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

    def __call__(self, layer: int, q: Value, k: Value, v: Value) -> Value:
        """The context of one layer, [1, H, T, D]; its state is written on the way."""
        ops = self.ops
        keys, values = self.buffers.update(layer, self.slot, ops.rotate(k, *self.phase), v)
        if self.corrected:
            mask = ops.join_mask(self._correction(q, keys) + self.sink_mask, self.ring_mask)
        else:
            mask = self.mask
        if self.spec.off_by_one:
            keys, values, mask = ops.append_zero(keys, -2), ops.append_zero(values, -2), ops.append_zero(mask, -1)
        return ops.attend(ops.rotate(q, *self.query_phase), keys, values, mask, self.spec.cap)

    def _correction(self, q: Value, keys: Value) -> Value:
        """What the scores of the sink columns lack, [1, H, T, S].

        Rotating by the difference gives scale (q_sink - q) at once. A cap is no linear thing: it takes both scores.
        """
        ops, heads, cap = self.ops, self.spec.heads, self.spec.cap
        scores = ops.sink_scores(ops.rotate(q, *self.sink_phase), keys, self.sinks, heads)
        if cap is None:
            return scores
        attended = ops.sink_scores(ops.rotate(q, *self.query_phase), keys, self.sinks, heads)
        return ops.capped(scores, cap) - ops.capped(attended, cap)


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

    def capped(self, x: Value, cap: float) -> Value:
        """cap tanh(x / cap), elementwise."""

    def weigh(self, scores: Value, mask: Value, values: Value) -> Value:
        """softmax(scores + mask) v: [1, H, T, D]."""


class BoundedFrame:
    """Keys rotated at their row; the query rotated at its row, one ring later and at its place before the sinks.

    `position` is `Ring.frame(position)`, and rows past `length` may be padding (`Rows.in_frame`).
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
        self.ops, self.buffers, self.spec = ops, buffers, spec
        rows = Rows.in_frame(ops, buffers, spec, ids, position, sinks, length)
        self.slot, self.is_sink = rows.slot, rows.is_sink
        self.mask = ops.where(rows.visible, 0.0, ops.masked)  # [T, rows]
        self.same_lap = rows.row <= ops.column(rows.slot)  # [T, rows]

        angle = np.arange(2 * spec.rows)[:, None] * spec.frequencies  # [2 rows, D/2]
        cos = f"rope.{len(angle)}.cos", np.cos(angle) * spec.amplitudes
        sin = f"rope.{len(angle)}.sin", np.sin(angle) * spec.amplitudes
        places = [self.slot, self.slot + rows.slots]
        if spec.sinks:
            places.append(ops.minimum(rows.token, spec.capacity - 1))
        queries = ops.concatenate(*places)  # [2 T], and T more where sinks are seen
        self.key_phase = ops.table(*cos, self.slot), ops.table(*sin, self.slot)
        self.query_phases = ops.table(*cos, queries), ops.table(*sin, queries)

    def __call__(self, layer: int, q: Value, k: Value, v: Value) -> Value:
        """The context of one layer, [1, H, T, D]; its state is written on the way."""
        ops = self.ops
        keys, values = self.buffers.update(layer, self.slot, ops.rotate(k, *self.key_phase), v)
        here, lap_later, *sink = ops.scores(q, *self.query_phases, keys, self.spec.scale)  # [1, H, T, rows] each
        scores = ops.where(self.same_lap, here, lap_later)
        if sink:
            scores = ops.where(self.is_sink, sink[0], scores)
        if self.spec.cap is not None:
            scores = ops.capped(scores, self.spec.cap)
        return ops.weigh(scores, self.mask, values)


class AlibiOps(IntegerOps, Protocol):
    """What `Alibi` needs more: distances that weigh on scores."""

    masked: float
    """What is added to the score of a row that is not seen: far below any score, and finite."""

    def sloped(self, distance: Value, slopes: Sequence[float]) -> Value:
        """-slope * distance for the slope of each head: integer [T, rows] -> float [1, H, T, rows]."""

    def attend(self, q: Value, keys: Value, values: Value, mask: Value, cap: float | None) -> Value:
        """softmax(s + mask) v, s = q k^T, capped if there is a cap: grouped queries; mask [1, H, T, rows]."""


class Alibi:
    """Nothing is rotated: a score loses slope * distance, and a sink is never farther off than the cache is long."""

    def __init__(self, ops: AlibiOps, buffers: Buffers, spec: AttentionSpec, rows: Rows) -> None:
        if spec.positions != "cache":
            raise BadOption("positions 'original' of a model with ALiBi", "cache: a sink's distance stops growing")
        self.ops, self.buffers, self.spec, self.slot = ops, buffers, spec, rows.slot
        distance = ops.column(rows.token) - rows.held  # [T, rows]
        if spec.sinks:
            to_sink = ops.column(ops.minimum(rows.token, spec.capacity - 1)) - rows.held
            distance = ops.where(rows.is_sink, to_sink, distance)
        self.mask = ops.where(rows.visible, ops.sloped(distance, spec.slopes), ops.masked)  # [1, H, T, rows]

    def __call__(self, layer: int, q: Value, k: Value, v: Value) -> Value:
        """The context of one layer, [1, H, T, D]; its state is written on the way."""
        keys, values = self.buffers.update(layer, self.slot, k, v)
        return self.ops.attend(q * self.spec.scale, keys, values, self.mask, self.spec.cap)


class StreamOps(SinkCorrectedOps, AlibiOps, Protocol):
    """The vocabulary of a target that numbers tokens as they stand in the stream."""


class FrameOps(BoundedFrameOps, AlibiOps, Protocol):
    """The vocabulary of a target that numbers tokens in a frame."""


def stream_attention(
    ops: StreamOps,
    buffers: CountedBuffers,
    spec: AttentionSpec,
    ids: Value,
    position: Value,
    sinks: Value,
    oldest: Value | None = None,
) -> Attention:
    """How layers of one view attend, tokens numbered as they stand in the stream; `oldest` as `Rows.of_stream`."""
    if spec.slopes:
        return Alibi(ops, buffers, spec, Rows.of_stream(ops, buffers, spec, ids, position, sinks, oldest))
    return SinkCorrected(ops, buffers, spec, ids, position, sinks, oldest)


def frame_attention(
    ops: FrameOps,
    buffers: FixedBuffers,
    spec: AttentionSpec,
    ids: Value,
    position: Value,
    sinks: Value,
    length: Value | int,
) -> Attention:
    """How layers of one view attend, their tokens numbered from `Ring.frame(position)` on."""
    if spec.slopes:
        return Alibi(ops, buffers, spec, Rows.in_frame(ops, buffers, spec, ids, position, sinks, length))
    return BoundedFrame(ops, buffers, spec, ids, position, sinks, length)
