"""Rows of a ring: which of them a step's tokens are written to, and which they see; for every formulation of attention.

Owns how layers of one view attend, in numbers (`AttentionSpec`), the buffers that they write, and the arithmetic of
rows in the emitters' vocabulary: with tokens numbered as they stand in the stream, or in a frame that never grows.
A chunk is written first and attended after: with window + T - 1 ring rows every query still finds its whole window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgesink.export.graph import Ops, Value
from edgesink.spec import ModelSpec, Positions, StreamSpec, View

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
    slopes: tuple[float, ...] = ()  # what a token of distance takes off each query head's scores; (): nothing
    cap: float | None = None  # c: a score is c tanh(score / c); None: as it is
    off_by_one: bool = False  # a row of zeros is seen too: softmax exp(x) / (1 + sum exp(x))

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
            slopes=view.slopes,
            cap=model.score_cap,
            off_by_one=model.off_by_one,
        )


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


@dataclass(frozen=True, eq=False)
class Rows:
    """Where the tokens of a step are written in a ring, and which rows they see."""

    token: Value  # [T], their numbers, in the stream or in a frame
    slot: Value  # [T], the rows that they are written to
    slots: Value  # [1], R: the rows that are not sinks'
    row: Value  # [rows], 0, 1 …
    is_sink: Value  # [rows]
    held: Value  # [rows], the number of the token that a row holds; of a row that was never written, any that is unseen
    visible: Value  # [T, rows]

    @classmethod
    def of_stream(
        cls,
        ops: IntegerOps,
        buffers: CountedBuffers,
        spec: AttentionSpec,
        ids: Value,
        position: Value,
        sinks: Value,
        oldest: Value | None = None,
    ) -> Rows:
        """Tokens numbered as they stand in the stream: for targets with large integers.

        `oldest` [1] or [T]: no token of the window before it is seen, where the ring has sinks; None hides none.
        """
        sinks = sinks if spec.sinks else ops.constant(NO_SINKS)
        token = position + ops.arange(ids)  # [T]
        slots = spec.rows - sinks  # [1]
        slot = ops.where(token < sinks, token, sinks + (token - sinks) % slots)  # [T]
        newest = token[-1:]  # [1], the last token of this chunk
        row = buffers.row_numbers()
        is_sink = row < sinks
        held = ops.where(is_sink, row, newest - (newest - row) % slots)  # [rows], below sinks: never written
        query = ops.column(token)
        window = (held > query - (spec.capacity - sinks)) & (held >= sinks)
        if oldest is not None and spec.sinks:
            window = window & (held >= ops.column(oldest))
        return cls(token, slot, slots, row, is_sink, held, (held <= query) & (is_sink | window))

    @classmethod
    def in_frame(
        cls,
        ops: IntegerOps,
        buffers: FixedBuffers,
        spec: AttentionSpec,
        ids: Value,
        position: Value,
        sinks: Value,
        length: Value | int,
    ) -> Rows:
        """Tokens numbered from `Ring.frame(position)` on: nothing here grows.

        Rows past `length` may be padding: they are written to rows that no query of this chunk or the next sees before
        the real token is there.
        """
        sinks = sinks if spec.sinks else ops.constant(NO_SINKS)
        slots = spec.rows - sinks  # [1]
        end = sinks + slots
        token = position + ops.arange(ids)  # [T], below sinks + 2 R + T
        one_lap = ops.where(token >= end, slots, 0)
        two_laps = ops.where(token >= end + slots, slots, 0)
        slot = token - one_lap - two_laps  # [T]
        numbers = np.arange(buffers.rows)
        never = 8 * spec.rows  # later than any token: rows beyond the ring's are not seen
        row = ops.constant(np.where(numbers < spec.rows, numbers, never))
        newest = position + length - 1  # [1]
        later = ops.where(row + slots <= newest, slots, 0) + ops.where(row + slots + slots <= newest, slots, 0)
        is_sink = row < sinks
        held = ops.where(is_sink, row, row + later)  # [rows]; above `newest`: never written
        query = ops.column(token)
        visible = (held <= query) & (is_sink | (held > query - (spec.capacity - sinks)))
        return cls(token, slot, slots, row, is_sink, held, visible)
