"""The decoder as Core ML programs: in each package a function for one token and one for a chunk, one packed state.

Owns what the vocabulary of `graph` and `attention` means in MIL. Everything is static: a chunk is padded, integers
are int32 and bounded (`Ring.frame`), floats are float16. Follows what public projects report of the Neural Engine: a
single state of rank 4 with a multiple of 32 rows, no scatter, no shift, a mask of -1e4; none of it could be measured
where this was written.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgesink import names
from edgesink.export.attention import BoundedFrame
from edgesink.export.graph import cut, decoder
from edgesink.export.to_coreml.builder import (
    Program,
    Value,
    WeightStore,
    concatenate,
    constant,
    function,
    mb,
    reshape,
    save_program,
    split,
    whole,
)
from edgesink.export.to_coreml.description import describe_model
from edgesink.export.weights import Weights
from edgesink.manifest import Manifest
from edgesink.spec import ModelSpec

SMALLEST_PEAK = 1e-3  # of a normalised vector: keeps the division finite for a vector of zeros


def write_coreml(folder: Path, manifest: Manifest, weights: Weights) -> None:
    """Write `manifest.coreml_packages` into `folder`; `manifest` says what, and travels inside.

    Raises BadOption where the stream cannot be bounded.
    """
    parts = cut(manifest.model.layers, manifest.parts)
    for part, (package, layers) in enumerate(zip(manifest.coreml_packages, parts, strict=True)):
        with tempfile.TemporaryDirectory(prefix=".weights.", dir=folder.parent) as scratch:
            program = _program(manifest, layers, WeightStore(Path(scratch)), weights)
            describe = partial(describe_model, manifest=manifest, part=part)
            save_program(program, names.DECODE, folder / package, Path(scratch), describe)


def _program(manifest: Manifest, layers: range, store: WeightStore, weights: Weights) -> Program:
    """The functions `decode` and `prefill` over `layers`."""
    model, stream, kv_write = manifest.model, manifest.stream, manifest.options["kv_write"]
    rows = manifest.state_rows
    state = (names.KV_CACHE, (2 * len(layers), model.kv_heads, rows, model.head_dim))
    program = Program()
    for name, length in ((names.DECODE, 1), (names.PREFILL, stream.chunk)):
        inputs: dict[str, tuple[tuple[int, ...], str]] = {
            **({names.HIDDEN: ((1, length, model.hidden), "float16")} if layers.start else {}),
            **({} if layers.start else {names.IDS: ((1, length), "int32")}),
            names.POSITION: ((1,), "int32"),
            names.SINKS: ((1,), "int32"),
            **({names.LENGTH: ((1,), "int32")} if name == names.PREFILL else {}),
        }
        with function(program, name, inputs, state) as (given, outputs):
            entering = given[names.HIDDEN if layers.start else names.IDS]
            ops = MilOps(model, layers, rows, length, kv_write, store, weights, given)
            attention = BoundedFrame(
                ops, model, stream, entering, given[names.POSITION], given[names.SINKS], given.get(names.LENGTH, 1)
            )
            leaving = decoder(model, ops, attention, entering, layers)
            if layers.stop < model.layers:
                outputs.append(named(leaving, names.updated(names.HIDDEN)))
            else:
                outputs.append(named(reshape(leaving, 1, model.vocab), names.LOGITS))
            if kv_write == "host":
                outputs.append(named(concatenate(ops.new_rows, axis=0), names.NEW_KV))
    return program


def named(value: Value, name: str) -> Value:
    return Value(mb.identity(x=value.var, name=name))


class MilOps:
    """The vocabulary as MIL operations; satisfies `graph.Ops` and `attention.BoundedFrameOps`.

    layers: those of this package, whose state holds no others. tokens: T.
    kv_write: how new keys and values reach the state. "slice": a single token by a slice at its row, a chunk by the
    blend. "blend": rows are chosen by a product with zeros and ones, exact in float16, and every slice has constant
    bounds. "host": the state is only read; the rows come out as `new_kv` and the runner writes them.
    """

    masked = -1e4  # float16 adds it to any score without overflow

    def __init__(
        self,
        model: ModelSpec,
        layers: range,
        rows: int,
        tokens: int,
        kv_write: str,
        store: WeightStore,
        weights: Weights,
        inputs: dict[str, Value],
    ) -> None:
        self.model, self.rows, self.kv_write = model, rows, kv_write
        self.new_rows: list[Value] = []  # of each layer, [2, K, T, D]
        self._store, self._weights = store, weights
        self._length = inputs.get(names.LENGTH)
        self._layers, self._tokens = layers, tokens
        self._state = inputs[names.KV_CACHE].var
        self._cache = Value(mb.read_state(input=self._state))  # [2 layers, K, rows, D]
        self._consts: dict[str, Value] = {}
        self._places: tuple[Value, Value] | None = None

    # ---- the decoder's vocabulary

    def embed(self, ids: Value) -> Value:
        return Value(mb.gather(x=self._weight("embedding").var, indices=ids.var, axis=0))

    def norm(self, x: Value, weight: str) -> Value:
        """RMSNorm divided by the largest magnitude first.

        Residuals reach 26 000 on the tokens that become sinks, and their squares overflow float16. Divided by the
        peak nothing leaves [0, 1], and x / rms(x) is the same number.
        """
        magnitude = mb.reduce_max(x=mb.abs(x=x.var), axes=[-1], keep_dims=True)
        peak = Value(mb.maximum(x=magnitude, y=np.float16(SMALLEST_PEAK)))
        unit = x / peak
        floor = constant(np.array([self.model.norm_eps**0.5])) / peak
        mean = Value(mb.reduce_mean(x=(unit * unit).var, axes=[-1], keep_dims=True)) + floor * floor
        inverse = Value(mb.rsqrt(x=mean.var, epsilon=np.float16(0)))
        return x * (inverse / peak) * self._weight(weight)

    def heads(self, x: Value, *weights: tuple[str, int]) -> tuple[Value, ...]:
        products = self._products(x, *(weight for weight, _ in weights))
        return tuple(self._cut(product, count) for product, (_, count) in zip(products, weights, strict=True))

    def merge(self, context: Value) -> Value:
        rows = Value(mb.transpose(x=context.var, perm=[0, 2, 1, 3]))
        return reshape(rows, 1, self._tokens, self.model.heads * self.model.head_dim)

    def add_product(self, x: Value, y: Value, weight: str) -> Value:
        return x + self._products(y, weight)[0]

    def gated(self, x: Value, gate: str, up: str) -> Value:
        products = self._products(x, gate, up)
        return Value(mb.silu(x=products[0].var)) * products[1]

    def last(self, x: Value) -> Value:
        if self._length is None:
            return x
        return Value(mb.gather(x=x.var, indices=(self._length - 1).var, axis=1))

    def head(self, x: Value) -> Value:
        return self._products(x, "head")[0]

    def update(self, layer: int, slot: Value, k: Value, v: Value) -> tuple[Value, Value]:
        new = concatenate([k, v], axis=0)  # [2, K, T, D]
        self.new_rows.append(new)
        if self.kv_write == "slice" and self._tokens == 1:
            self._write(self._sliced(layer, slot, new))
            both = self._layer(layer)
        else:
            put, keep = self._blend_places(slot)
            placed = Value(mb.matmul(x=put.var, y=new.var))  # [2, K, rows, D]
            both = self._layer(layer) * keep + placed
            if self.kv_write != "host":
                self._write(
                    mb.slice_update(x=self._cache.var, update=both.var, begin=self._begin(layer), end=self._end(layer))
                )
        keys, values = split(both, 2, axis=0)  # [1, K, rows, D]
        return keys, values

    # ---- the ring's vocabulary

    def constant(self, array: np.ndarray) -> Value:
        return constant(array)

    def arange(self, ids: Value) -> Value:
        return constant(np.arange(ids.shape[1]))

    def where(self, condition: Value, yes: Value | float, no: Value | float) -> Value:
        dtype = next((v.dtype for v in (yes, no) if isinstance(v, Value)), np.dtype(np.float16))
        full = lambda v: v if isinstance(v, Value) else constant(np.full(condition.shape, v, dtype))  # noqa: E731
        a, b = full(yes), full(no)
        rank = max(len(v.shape) for v in (condition, a, b))
        shaped = [reshape(v, *[1] * (rank - len(v.shape)), *v.shape) for v in (condition, a, b)]
        return Value(mb.select(cond=shaped[0].var, a=shaped[1].var, b=shaped[2].var))

    def minimum(self, a: Value, b: int) -> Value:
        return Value(mb.minimum(x=a.var, y=whole([b])))

    def column(self, x: Value) -> Value:
        return reshape(x, *x.shape, 1)

    def concatenate(self, *parts: Value) -> Value:
        return concatenate(list(parts), axis=0)

    def table(self, array: np.ndarray, row: Value) -> Value:
        name = f"rope.{array.shape[0]}.{'cos' if array[0, 0] == 1 else 'sin'}"
        if name not in self._store:
            self._store.keep(name, array)
        return Value(mb.gather(x=self._held(name).var, indices=row.var, axis=0))

    def rotate(self, x: Value, cos: Value, sin: Value) -> Value:
        first, second = split(x, 2, axis=3)
        return concatenate([first * cos - second * sin, second * cos + first * sin], axis=3)

    def scores(self, q: Value, cos: Value, sin: Value, keys: Value, scale: float) -> tuple[Value, ...]:
        turns, model = cos.shape[0] // self._tokens, self.model
        turned = self.rotate(concatenate([q] * turns, axis=2), cos, sin) * scale  # [1, H, turns T, D]
        grouped = reshape(turned, 1, model.kv_heads, model.groups * turns * self._tokens, model.head_dim)
        products = Value(mb.matmul(x=grouped.var, y=keys.var, transpose_y=True))
        return split(reshape(products, 1, model.heads, turns * self._tokens, self.rows), turns, axis=2)

    def weigh(self, scores: Value, mask: Value, values: Value) -> Value:
        model = self.model
        weights = Value(mb.softmax(x=(scores + mask).var, axis=-1))
        grouped = reshape(weights, 1, model.kv_heads, model.groups * self._tokens, self.rows)
        context = Value(mb.matmul(x=grouped.var, y=values.var))
        return reshape(context, 1, model.heads, self._tokens, model.head_dim)

    # ---- weights

    def _products(self, x: Value, *weights: str) -> tuple[Value, ...]:
        return tuple(self._product(x, self._weight(weight)) for weight in weights)

    def _product(self, x: Value, weight: Value) -> Value:
        name = f"zeros.{weight.shape[0]}"
        if name not in self._consts:
            self._consts[name] = self._store.zeros(weight.shape[0])
        return Value(mb.linear(x=x.var, weight=weight.var, bias=self._consts[name].var))

    def _weight(self, name: str) -> Value:
        name = "embedding" if name == "head" and self.model.tied else name
        if name not in self._store:
            self._store.keep(name, self._weights(name))
        return self._held(name)

    def _held(self, name: str) -> Value:
        if name not in self._consts:
            self._consts[name] = self._store.value(name)
        return self._consts[name]

    # ---- the state

    def _layer(self, layer: int) -> Value:
        """Keys and values of a layer as they are now, [2, K, rows, D]."""
        return Value(mb.slice_by_index(x=self._cache.var, begin=self._begin(layer), end=self._end(layer)))

    def _write(self, cache: Any) -> None:
        self._cache = Value(mb.coreml_update_state(state=self._state, value=cache))

    def _sliced(self, layer: int, slot: Value, new: Value) -> Any:
        """The cache with the rows of one token [2, K, 1, D] at `slot` [1]."""
        first, zero, after = self._first(layer), constant(whole([0])), slot + 1
        begin = concatenate([constant(whole([first, 0])), slot, zero], axis=0)
        end = concatenate(
            [constant(whole([first + 2, self.model.kv_heads])), after, constant(whole([self.model.head_dim]))],
            axis=0,
        )
        return mb.slice_update(x=self._cache.var, update=new.var, begin=begin.var, end=end.var)

    def _blend_places(self, slot: Value) -> tuple[Value, Value]:
        """Which row takes which token, 0 or 1 [2, K, rows, T]; which rows stay [1, 1, rows, 1]."""
        if self._places is None:
            row = constant(np.arange(self.rows).reshape(-1, 1))
            chosen = Value(mb.cast(x=row.equals(slot).var, dtype="fp16"))  # [rows, T]
            taken = Value(mb.reduce_sum(x=chosen.var, axes=[-1], keep_dims=True))  # [rows, 1]
            put = mb.tile(x=reshape(chosen, 1, 1, *chosen.shape).var, reps=whole([2, self.model.kv_heads, 1, 1]))
            self._places = Value(put), reshape(1 - taken, 1, 1, self.rows, 1)
        return self._places

    def _first(self, layer: int) -> int:
        """Where the keys of `layer` lie in this package's state; its values lie behind them."""
        return 2 * self._layers.index(layer)

    def _begin(self, layer: int) -> np.ndarray:
        return whole([self._first(layer), 0, 0, 0])

    def _end(self, layer: int) -> np.ndarray:
        return whole([self._first(layer) + 2, self.model.kv_heads, self.rows, self.model.head_dim])

    def _cut(self, x: Value, heads: int) -> Value:
        """[1, T, heads D] -> [1, heads, T, D]."""
        rows = reshape(x, 1, self._tokens, heads, self.model.head_dim)
        return Value(mb.transpose(x=rows.var, perm=[0, 2, 1, 3]))
