"""Hand-made models whose layers look back in more than one way, and their oracle: the semantics by definition.

The oracle keeps every key unrotated and computes a token from the list of the tokens that it sees: no ring, no rows.
It shares nothing with the exporter but the spec and the weights; the rows of the ring enter only where it is asked for
the rounding of tables that are read at them.
"""

import dataclasses
import itertools
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgesink.export.checkpoint import weight_names, weight_shape
from edgesink.ring import Ring
from edgesink.spec import ModelSpec, Rotary, StreamSpec, View

STREAM = StreamSpec(sinks=4, window=12, max_sinks=8, chunk=5)  # 20 rows
IDS = np.random.default_rng(4).integers(0, 83, 3 * STREAM.rows + 7)  # three laps of the longest ring
CHUNKS = {"one by one": [1], "whole chunks": [5], "ragged": [5, 1, 1, 3, 5, 2, 4, 1]}

NEAR = View(Rotary((1.0, 0.5, 0.25, 0.125, 0.06, 0.03, 0.015, 0.007)), window=7)  # 11 rows: shorter than the stream's
FAR = View(Rotary((0.7, 0.31, 0.14, 0.06, 0.028, 0.0125, 0.0, 0.0), amplitude=1.25))  # turns in part
STILL = View(Rotary((0.0,) * 8))  # no positions, over the same ring as FAR

GEMMA_LIKE = ModelSpec(
    name="near and far",
    architecture="hand-made",
    hidden=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate=320,  # constants that rings have in common stay below 1 % of the weights
    vocab=83,
    context=512,
    tied=True,
    views=(NEAR, FAR),  # the ring of NEAR is the second
    view_of=(0, 0, 1, 0),
    weights=(
        *("attention_norm", "q", "k", "v", "q_norm", "k_norm", "o", "post_attention_norm"),
        *("mlp_norm", "gate", "up", "down", "post_mlp_norm"),
    ),
    scale=5 / 16,  # exact in float16, as is the root of the eps
    norm_eps=1 / 64,  # large enough for its factor to matter
    activation="gelu_tanh",
    embedding_scale=1.5,
    stream_scale=4.0,
)
QWEN_LIKE = dataclasses.replace(
    GEMMA_LIKE,
    name="near, far and still",
    tied=False,
    views=(FAR, STILL, NEAR),
    view_of=(2, 0, 1, 2),
    weights=(
        *("attention_norm", "q", "q_bias", "k", "k_bias", "v", "v_bias", "o"),
        *("mlp_norm", "gate", "up", "down"),
    ),
    scale=3 / 16,
    activation="silu",
    embedding_scale=1.0,
    stream_scale=1.0,
)
SLOPED = View(STILL.rotary, slopes=(0.5, 0.25, 0.125, 0.0625))
CAPPED = dataclasses.replace(
    GEMMA_LIKE,
    name="capped, turned and sloped, normed behind",
    views=(FAR, SLOPED, dataclasses.replace(SLOPED, window=7)),
    view_of=(0, 1, 2, 0),
    weights=(
        *("q", "k", "v", "q_whole_norm", "k_whole_norm", "o", "post_attention_norm"),
        *("gate", "up", "down", "post_mlp_norm"),
    ),
    stream_scale=1.0,
    clip=1.5,
    score_cap=2.0,  # scores reach 20
    logits_cap=8.0,
)
NEOX_LIKE = dataclasses.replace(
    GEMMA_LIKE,
    name="attention and MLP side by side",
    tied=False,
    views=(FAR, NEAR),
    view_of=(0, 1, 0, 0),
    weights=(
        *("attention_norm", "attention_norm_bias", "q", "k", "v", "q_bias", "k_bias", "v_bias", "o", "o_bias"),
        *("mlp_norm", "mlp_norm_bias", "up", "up_bias", "down", "down_bias"),
    ),
    activation="gelu",
    norm_kind="layer",
    parallel=True,
)
MODELS = {"gemma-like": GEMMA_LIKE, "qwen-like": QWEN_LIKE, "neox-like": NEOX_LIKE, "capped": CAPPED}


@dataclasses.dataclass(frozen=True)
class HandMade:
    """Random weights as a checkpoint, all of them numbers of float16; satisfies `export.checkpoint.Checkpoint`."""

    model: ModelSpec
    path: Path = Path("hand-made")
    sliding_window: int | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    sink_token_id: int | None = None
    sampling: None = None
    dropped_tokens: tuple[str, ...] = ()

    def tensor(self, weight: str) -> np.ndarray:
        shape = weight_shape(self.model, weight)
        values = np.random.default_rng(zlib.crc32(weight.encode())).normal(size=shape)
        if weight.endswith("bias"):
            values = 0.5 * values
        elif len(shape) == 1:
            values = 1 + 0.2 * values
        else:
            values = 1.5 * values / shape[1] ** 0.5
        return values.astype(np.float16).astype(np.float32)

    def kind(self, weight: str) -> None:
        return None

    def blocks(self, weight: str) -> None:
        return None

    def templates(self) -> dict[str, str]:
        return {}

    def special_tokens(self) -> dict[str, str]:
        return {}

    def write_tokenizer(self, path: Path) -> None:
        path.write_text("{}")

    def weights(self) -> dict[str, np.ndarray]:
        """All of them, float64."""
        return {name: self.tensor(name).astype(np.float64) for name in weight_names(self.model)}


class ViewOracle:
    """One stream through a hand-made model, a token at a time, in float64.

    rounded: cosines and sines as a bounded-frame program holds them, taken at the rows that it takes and rounded to
    float16; else at the true distance.
    """

    def __init__(self, checkpoint: HandMade, stream: StreamSpec, sinks: int, rounded: bool = False) -> None:
        self.model, self.stream, self.sinks, self.rounded = checkpoint.model, stream, sinks, rounded
        self.weights = checkpoint.weights()
        self.keys = [[] for _ in range(self.model.layers)]
        self.values = [[] for _ in range(self.model.layers)]

    def run(self, ids: np.ndarray) -> list[np.ndarray]:
        """The logits [V] after each of the ids."""
        return [self.step(int(id_)) for id_ in ids]

    def step(self, id_: int) -> np.ndarray:
        m, w = self.model, self.weights
        x = w["embedding"][id_] * m.embedding_scale
        for layer in range(m.layers):
            own = {name: w[f"layers.{layer}.{name}"] for name in m.weights}
            h = self.norm(x * m.stream_scale, own, "attention_norm") if "attention_norm" in own else x
            q, k, v = (own[name] @ h + own.get(f"{name}_bias", 0) for name in "qkv")
            if m.clip is not None:
                q, k, v = (x.clip(-m.clip, m.clip) for x in (q, k, v))
            q = self.norm(q, own, "q_whole_norm") if "q_whole_norm" in own else q
            k = self.norm(k, own, "k_whole_norm") if "k_whole_norm" in own else k
            q, k, v = q.reshape(m.heads, -1), k.reshape(m.kv_heads, -1), v.reshape(m.kv_heads, -1)
            q = self.norm(q, own, "q_norm") if "q_norm" in own else q
            k = self.norm(k, own, "k_norm") if "k_norm" in own else k
            y = own["o"] @ self.attend(layer, q, k, v) + own.get("o_bias", 0)
            attended = x + (self.norm(y, own, "post_attention_norm") if "post_attention_norm" in own else y)
            h = x if m.parallel else attended
            h = self.norm(h * m.stream_scale, own, "mlp_norm") if "mlp_norm" in own else h
            inner = own["up"] @ h + own.get("up_bias", 0)
            inner = self.activated(own["gate"] @ h) * inner if "gate" in own else self.activated(inner)
            y = own["down"] @ inner + own.get("down_bias", 0)
            x = attended + (self.norm(y, own, "post_mlp_norm") if "post_mlp_norm" in own else y)
        logits = w["embedding" if m.tied else "head"] @ self.norm(x * m.stream_scale, w, "norm")
        return capped(logits, m.logits_cap)

    def norm(self, x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True) if self.model.norm_kind == "layer" else x
        normed = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.model.norm_eps) * weights[name]
        return normed + weights.get(f"{name}_bias", 0)

    def activated(self, x: np.ndarray) -> np.ndarray:
        if self.model.activation == "silu":
            return x / (1 + np.exp(-x))
        if self.model.activation == "gelu":
            return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def attend(self, layer: int, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        """q [H, D], k and v [K, D] of the newest token: its context [H D]."""
        m, capacity = self.model, self.stream.capacity
        self.keys[layer].append(k)
        self.values[layer].append(v)
        view, newest = m.views[m.view_of[layer]], len(self.keys[layer]) - 1
        own = view.window is not None and view.window < capacity
        window, sinks = (view.window, 0) if own else (capacity - self.sinks, self.sinks)
        seen = [j for j in range(newest + 1) if j < sinks or j > newest - window]
        places = [self.places(Ring(sinks, sinks + window, self.stream.chunk), newest, j) for j in seen]
        query_places, key_places = zip(*places, strict=True)
        shared = [np.stack([kept[layer][j] for j in seen]) for kept in (self.keys, self.values)]  # [seen, K, D]
        keys, values = (x.repeat(m.heads // m.kv_heads, axis=1) for x in shared)  # [seen, H, D]
        queries = np.broadcast_to(q, keys.shape)
        turned = self.rotated(view, queries, query_places), self.rotated(view, keys, key_places)
        scores = capped(m.scale * np.einsum("jhd,jhd->jh", *turned), m.score_cap)
        if view.slopes:
            scores -= np.outer(np.subtract(query_places, key_places), view.slopes)
        powers = np.exp(scores)
        return np.einsum("jh,jhd->hd", powers / powers.sum(0), values).reshape(-1)

    def places(self, ring: Ring, newest: int, token: int) -> tuple[int, int]:
        """Where the query of the newest token is rotated when it meets the key of `token`, and where that key is."""
        last = ring.capacity - 1
        if not self.rounded:
            return min(newest, last) if token < ring.sinks else newest, token
        here, row = ring.slot(newest), ring.slot(token)
        return min(newest, last) if token < ring.sinks else here if row <= here else here + ring.slots, row

    def rotated(self, view: View, x: np.ndarray, places: tuple[int, ...]) -> np.ndarray:
        """x [n, H, D], each row at its place."""
        angle = np.array(places)[:, None, None] * np.array(view.rotary.frequencies)  # [n, 1, D/2]
        cos, sin = np.cos(angle) * view.rotary.amplitudes, np.sin(angle) * view.rotary.amplitudes
        if self.rounded:
            cos, sin = (np.float64(np.float16(table)) for table in (cos, sin))
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def capped(x: np.ndarray, cap: float | None) -> np.ndarray:
    """The values with a soft cap, or as they are."""
    return x if cap is None else cap * np.tanh(x / cap)


def pieces(count: int, sizes: list[int]) -> Iterator[slice]:
    """Tokens 0 … count-1 in pieces of the sizes, over and over."""
    start = 0
    for size in itertools.cycle(sizes):
        if start >= count:
            return
        yield slice(start, min(start + size, count))
        start += size


def without(name: str, **changes: object) -> tuple[str, ModelSpec]:
    """A model and the same with something else said of it: what an exporter that overlooks it would make."""
    return name, dataclasses.replace(MODELS[name], **changes)


def without_weight(name: str, weight: str) -> tuple[str, ModelSpec]:
    """A model and the same without one of its weights."""
    return without(name, weights=tuple(other for other in MODELS[name].weights if other != weight))


def with_view(name: str, place: int, **changes: object) -> tuple[str, ModelSpec]:
    """A model and the same with another view."""
    views = list(MODELS[name].views)
    views[place] = dataclasses.replace(views[place], **changes)
    return without(name, views=tuple(views))


NORMS = ("q_norm", "k_norm", "post_attention_norm", "post_mlp_norm")
OVERLOOKED = {
    **{
        name: without_weight("gemma-like", name)
        for name in ("q_norm", "k_norm", "post_attention_norm", "post_mlp_norm")
    },
    **{name: without_weight("capped", name) for name in ("q_whole_norm", "k_whole_norm")},
    **{name: without_weight("qwen-like", name) for name in ("q_bias", "k_bias", "v_bias")},
    **{
        name: without_weight("neox-like", name)
        for name in ("attention_norm_bias", "mlp_norm_bias", "o_bias", "up_bias", "down_bias")
    },
    "side by side": without("neox-like", parallel=False),
    "exact GELU": without("neox-like", activation="gelu_tanh"),
    "activation": without("gemma-like", activation="silu"),
    "scale": without("gemma-like", scale=GEMMA_LIKE.head_dim**-0.5),
    "embedding_scale": without("gemma-like", embedding_scale=1.0),
    "stream_scale": without("gemma-like", stream_scale=1.0),
    "window": with_view("gemma-like", 0, window=None),
    "a window one token longer": with_view("gemma-like", 0, window=8),
    "amplitude": with_view("qwen-like", 0, rotary=Rotary(FAR.rotary.frequencies)),
    "pairs that never turn": with_view(
        "qwen-like", 0, rotary=Rotary((*FAR.rotary.frequencies[:6], 0.006, 0.003), 1.25)
    ),
    "layers without positions": with_view("qwen-like", 1, rotary=NEAR.rotary),
    "the other view": without("gemma-like", view_of=(0, 1, 0, 0)),
    "clip": without("capped", clip=None),
    "cap on scores": without("capped", score_cap=None),
    "cap on logits": without("capped", logits_cap=None),
    "slopes": with_view("capped", 1, slopes=()),
    "slopes of other heads": with_view("capped", 1, slopes=SLOPED.slopes[::-1]),
}
"""What an exporter might overlook -> the name of the model that has it, and what would come of it."""
