"""The state of a package: keys and values of its layers in one tensor that Core ML keeps between runs.

Owns where a layer lies in it and the ways in which new rows reach it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgesink.export.to_coreml.builder import Value, concatenate, constant, int32, mb, reshape, split


class MilBuffers:
    """A state float16 [2 L, K, rows, D], keys and values in turn; satisfies `attention.FixedBuffers`.

    layers: those of the state, in its order.
    kv_write: how new keys and values reach it. "slice": a single token by a slice at its row, a chunk by the blend.
    "blend": rows are chosen by a product with zeros and ones, exact in float16, and every slice has constant bounds.
    "host": the state is only read; the rows come out (`new_rows`) and the runner writes them.
    """

    def __init__(self, state: Value, layers: Sequence[int], kv_write: str) -> None:
        self._state, self._layers, self._kv_write = state.var, layers, kv_write
        self._cache = Value(mb.read_state(input=state.var))  # [2 L, K, rows, D]
        self._new: dict[int, Value] = {}  # by layer, [2, K, T, D]
        self._places: dict[Any, tuple[Value, Value]] = {}  # by the variable of the slots

    @property
    def rows(self) -> int:
        """Of each buffer."""
        return self._cache.shape[2]

    def update(self, layer: int, slot: Value, k: Value, v: Value) -> tuple[Value, Value]:
        new = concatenate([k, v], axis=0)  # [2, K, T, D]
        self._new[layer] = new
        if self._kv_write == "slice" and new.shape[2] == 1:
            self._write(self._sliced(layer, slot, new))
            both = self._layer(layer)
        else:
            put, keep = self._blend_places(slot)
            placed = Value(mb.matmul(x=put.var, y=new.var))  # [2, K, rows, D]
            both = self._layer(layer) * keep + placed
            if self._kv_write != "host":
                self._write(
                    mb.slice_update(x=self._cache.var, update=both.var, begin=self._begin(layer), end=self._end(layer))
                )
        keys, values = split(both, 2, axis=0)  # [1, K, rows, D]
        return keys, values

    def new_rows(self) -> Value:
        """The rows of a step for every layer, in the order of the state: [2 L, K, T, D]."""
        return concatenate([self._new[layer] for layer in self._layers], axis=0)

    def _layer(self, layer: int) -> Value:
        """Keys and values of a layer as they are now, [2, K, rows, D]."""
        return Value(mb.slice_by_index(x=self._cache.var, begin=self._begin(layer), end=self._end(layer)))

    def _write(self, cache: Any) -> None:
        self._cache = Value(mb.coreml_update_state(state=self._state, value=cache))

    def _sliced(self, layer: int, slot: Value, new: Value) -> Any:
        """The cache with the rows of one token [2, K, 1, D] at `slot` [1]."""
        _, K, _, D = self._cache.shape
        first, zero, after = self._first(layer), constant(int32([0])), slot + 1
        begin = concatenate([constant(int32([first, 0])), slot, zero], axis=0)
        end = concatenate([constant(int32([first + 2, K])), after, constant(int32([D]))], axis=0)
        return mb.slice_update(x=self._cache.var, update=new.var, begin=begin.var, end=end.var)

    def _blend_places(self, slot: Value) -> tuple[Value, Value]:
        """Which row takes which token, 0 or 1 [2, K, rows, T]; which rows stay [1, 1, rows, 1]."""
        if slot.var not in self._places:
            row = constant(np.arange(self.rows).reshape(-1, 1))
            chosen = Value(mb.cast(x=row.equals(slot).var, dtype="fp16"))  # [rows, T]
            taken = Value(mb.reduce_sum(x=chosen.var, axes=[-1], keep_dims=True))  # [rows, 1]
            repeats = int32([2, self._cache.shape[1], 1, 1])
            put = mb.tile(x=reshape(chosen, 1, 1, *chosen.shape).var, reps=repeats)
            self._places[slot.var] = Value(put), reshape(1 - taken, 1, 1, self.rows, 1)
        return self._places[slot.var]

    def _first(self, layer: int) -> int:
        """Where the keys of `layer` lie in the state; its values lie behind them."""
        return 2 * self._layers.index(layer)

    def _begin(self, layer: int) -> np.ndarray:
        return int32([self._first(layer), 0, 0, 0])

    def _end(self, layer: int) -> np.ndarray:
        return int32([self._first(layer) + 2, *self._cache.shape[1:]])
