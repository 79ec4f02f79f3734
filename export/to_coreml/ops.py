"""The decoder's vocabulary in MIL: what each operation of `graph` and `attention` is in a Core ML program.

Everything is static: a chunk is padded, integers are int32 and bounded (`Ring.frame`), floats are float16. Follows what
public projects report of the Neural Engine: no scatter, no shift, a mask of -1e4; none of it could be measured where
this was written. Knows no model but by the numbers that it is told.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgesink.export.graph import Norm, Product, Projection, unknown_activation
from edgesink.export.to_coreml.builder import (
    Value,
    WeightStore,
    concatenate,
    constant,
    int32,
    mb,
    ranked,
    reshape,
    split,
)
from edgesink.export.weights import Weights
from edgesink.spec import Activation

SMALLEST_PEAK = 1e-3  # of a normalised vector: keeps the division finite for a vector of zeros
SMALLEST_EPS = 2.5e-10  # of a norm: 1 / sqrt(eps), which a vector of zeros is multiplied by, is finite in float16


class MilOps:
    """The vocabulary as MIL operations of one function; satisfies `attention.FrameOps`.

    store: the weights of the package, filled from `weights`. length: real tokens of a padded chunk; None: all are.
    """

    masked = -1e4  # float16 adds it to any score without overflow

    def __init__(self, store: WeightStore, weights: Weights, length: Value | None) -> None:
        self._store, self._weights, self._length = store, weights, length
        self._consts: dict[str, Value] = {}  # of the store, by name

    # ---- the decoder's vocabulary

    def embed(self, ids: Value, weight: str, scale: float) -> Value:
        rows = Value(mb.gather(x=self._weight(weight).var, indices=ids.var, axis=0))
        return rows if scale == 1 else rows * scale

    def norm(self, x: Value, norm: Norm) -> Value:
        """RMSNorm divided by the largest magnitude first; LayerNorm is the same of what differs from the mean.

        Residuals reach 26 000 on the tokens that become sinks, and their squares overflow float16. Divided by the
        peak nothing leaves [0, 1], and x / rms(x) is the same number.
        """
        if norm.kind == "layer":
            largest = peak_of(x)
            x = x - mean_of(x / largest) * largest
        peak = peak_of(x)
        unit = x / peak
        floor = constant(np.array([max(norm.eps, SMALLEST_EPS) ** 0.5])) / peak
        inverse = Value(mb.rsqrt(x=(mean_of(unit * unit) + floor * floor).var, epsilon=np.float16(0)))
        normed = x * (inverse / peak) * self._weight(norm.weight)
        return normed if norm.bias is None else normed + self._weight(norm.bias)

    def heads(self, x: Value, *projections: Projection) -> tuple[Value, ...]:
        return tuple(cut_heads(self._projected(x, projection), projection.heads) for projection in projections)

    def merge(self, context: Value, width: int) -> Value:
        rows = Value(mb.transpose(x=context.var, perm=[0, 2, 1, 3]))
        return reshape(rows, 1, context.shape[2], width)

    def residual(self, x: Value, y: Value, product: Product, after: Norm | None) -> Value:
        added = self._product(y, product.weight, product.bias)
        return x + (self.norm(added, after) if after else added)

    def gated(self, x: Value, gate: str, up: str, activation: Activation) -> Value:
        a, b = self._product(x, gate), self._product(x, up)
        return activated(a, activation) * b

    def plain(self, x: Value, up: Product, activation: Activation) -> Value:
        return activated(self._product(x, up.weight, up.bias), activation)

    def last(self, x: Value) -> Value:
        if self._length is None:
            return x
        return Value(mb.gather(x=x.var, indices=(self._length - 1).var, axis=1))

    def head(self, x: Value, weight: str) -> Value:
        return self._product(x, weight)

    # ---- the ring's vocabulary

    def constant(self, array: np.ndarray) -> Value:
        return constant(array)

    def arange(self, ids: Value) -> Value:
        return constant(np.arange(ids.shape[1]))

    def where(self, condition: Value, yes: Value | float, no: Value | float) -> Value:
        dtype = next((v.dtype for v in (yes, no) if isinstance(v, Value)), np.dtype(np.float16))

        def full(v: Value | float) -> Value:
            return v if isinstance(v, Value) else constant(np.full(condition.shape, v, dtype))

        a, b = full(yes), full(no)
        rank = max(len(v.shape) for v in (condition, a, b))
        condition, a, b = (ranked(v, rank) for v in (condition, a, b))
        return Value(mb.select(cond=condition.var, a=a.var, b=b.var))

    def minimum(self, a: Value, b: int) -> Value:
        return Value(mb.minimum(x=a.var, y=int32([b])))

    def column(self, x: Value) -> Value:
        return reshape(x, *x.shape, 1)

    def concatenate(self, *parts: Value) -> Value:
        return concatenate(list(parts), axis=0)

    def table(self, name: str, array: np.ndarray, row: Value) -> Value:
        return Value(mb.gather(x=self._const(self._store.keep_apart(name, array)).var, indices=row.var, axis=0))

    def rotate(self, x: Value, cos: Value, sin: Value) -> Value:
        first, second = split(x, 2, axis=3)
        return concatenate([first * cos - second * sin, second * cos + first * sin], axis=3)

    def scores(self, q: Value, cos: Value, sin: Value, keys: Value, scale: float) -> tuple[Value, ...]:
        T = q.shape[2]
        turns = cos.shape[0] // T
        turned = self.rotate(concatenate([q] * turns, axis=2), cos, sin) * scale  # [1, H, turns T, D]
        return split(products(turned, keys), turns, axis=2)

    def sloped(self, distance: Value, slopes: Sequence[float]) -> Value:
        every_head = constant(-np.array(slopes)[:, None, None])
        return ranked(Value(mb.cast(x=distance.var, dtype="fp16")), 4) * ranked(every_head, 4)

    def capped(self, x: Value, cap: float) -> Value:
        return Value(mb.tanh(x=(x * (1 / cap)).var)) * cap

    def attend(self, q: Value, keys: Value, values: Value, mask: Value, cap: float | None) -> Value:
        scores = products(q, keys)
        return self.weigh(scores if cap is None else self.capped(scores, cap), mask, values)

    def weigh(self, scores: Value, mask: Value, values: Value) -> Value:
        (_, H, T, rows), (_, K, _, D) = scores.shape, values.shape
        weights = Value(mb.softmax(x=(scores + mask).var, axis=-1))
        grouped = reshape(weights, 1, K, H // K * T, rows)
        context = Value(mb.matmul(x=grouped.var, y=values.var))
        return reshape(context, 1, H, T, D)

    # ---- weights

    def _projected(self, x: Value, projection: Projection) -> Value:
        product, clip = self._product(x, projection.weight, projection.bias), projection.clip
        if clip is not None:
            product = Value(mb.clip(x=product.var, alpha=np.float16(-clip), beta=np.float16(clip)))
        return self.norm(product, projection.norm) if projection.norm else product

    def _product(self, x: Value, weight: str, bias: str | None = None) -> Value:
        """x @ w.T + bias."""
        matrix = self._weight(weight)
        added = self._const(self._store.zeros(matrix.shape[0])) if bias is None else self._weight(bias)
        return Value(mb.linear(x=x.var, weight=matrix.var, bias=added.var))

    def _weight(self, name: str) -> Value:
        if name not in self._store:
            self._store.keep(name, self._weights(name))
        return self._const(name)

    def _const(self, name: str) -> Value:
        """What the store holds under `name`, once in this function."""
        if name not in self._consts:
            self._consts[name] = self._store.value(name)
        return self._consts[name]


def activated(x: Value, activation: Activation) -> Value:
    """The activation of every value."""
    if activation == "silu":
        return Value(mb.silu(x=x.var))
    if activation in ("gelu", "gelu_tanh"):
        return Value(mb.gelu(x=x.var, mode="EXACT" if activation == "gelu" else "TANH_APPROXIMATION"))
    raise unknown_activation(activation)


def peak_of(x: Value) -> Value:
    """The largest magnitude of each row, [..., 1]; never 0."""
    magnitude = mb.reduce_max(x=mb.abs(x=x.var), axes=[-1], keep_dims=True)
    return Value(mb.maximum(x=magnitude, y=np.float16(SMALLEST_PEAK)))


def mean_of(x: Value) -> Value:
    """The mean of each row, [..., 1]."""
    return Value(mb.reduce_mean(x=x.var, axes=[-1], keep_dims=True))


def products(q: Value, keys: Value) -> Value:
    """q [1, H, n, D] with keys [1, K, rows, D], grouped queries: [1, H, n, rows]."""
    (_, H, n, D), (_, K, rows, _) = q.shape, keys.shape
    grouped = reshape(q, 1, K, H // K * n, D)
    return reshape(Value(mb.matmul(x=grouped.var, y=keys.var, transpose_y=True)), 1, H, n, rows)


def cut_heads(x: Value, heads: int) -> Value:
    """[1, T, heads D] -> [1, heads, T, D]."""
    _, T, width = x.shape
    return Value(mb.transpose(x=reshape(x, 1, T, heads, width // heads).var, perm=[0, 2, 1, 3]))
