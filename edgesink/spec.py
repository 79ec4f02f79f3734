"""What a model is and how it streams: frozen facts, checked when made, derived where they can be.

Owns `ModelSpec` (the architecture, read from a checkpoint; `export.families` says how) and `StreamSpec` (what the
exporter was asked for). Knows no file format and no tensor library.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from edgesink.errors import BadOption
from edgesink.ring import Ring
from edgesink.targets import POSITIONS, ROWS, Target
from edgesink.targets import Positions as Positions
from edgesink.targets import Precision as Precision  # for the emitters

ComputeUnits = Literal["cpu_only", "cpu_and_gpu", "cpu_and_ne", "all"]

Activation = Literal["silu", "gelu", "gelu_tanh"]  # silu(z) = z sigmoid(z); GELU exact, and approximated with tanh
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
NormKind = Literal["rms", "layer"]  # RMSNorm; LayerNorm, which takes the mean away first
Device = Literal["cpu", "cuda"]
TorchType = Literal["float32", "bfloat16", "float16"]
Drafts = Literal["auto", "on", "off"]  # several tokens a pass: where it pays, wherever it can be, or never
Evict = Literal["turns", "plain"]  # what is forgotten first: whole exchanges of a conversation, or single tokens
Provider = Literal["cpu", "plain", "cuda"]  # plain: the CPU with no operators but ONNX Runtime's own

DEFAULT_SINKS = 4
DEFAULT_WINDOW = 1020
DEFAULT_MAX_SINKS = 128
LARGEST_SIZE = 1 << 31  # of a dimension, a vocabulary or a window; more is a mistake


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding of one kind of layer, halves paired (rotate_half): pair i is dimensions i and i + D/2.

    A pair of frequency 0 never turns. So layers without positions, heads that turn in part and every scaling of RoPE
    are this one list, and no emitter tells them apart.
    """

    frequencies: tuple[float, ...]  # radians a token of each of the D/2 pairs, as float32 holds them
    amplitude: float = 1.0  # of the cosine and sine of the pairs that turn (YaRN, LongRoPE)

    @property
    def amplitudes(self) -> np.ndarray:
        """Of the cosine and sine of each pair, float64 [D/2]."""
        return np.where(np.array(self.frequencies) == 0, 1.0, self.amplitude)


@dataclass(frozen=True)
class View:
    """How layers of one kind look back: their phases, and their own sliding window where they were trained with one."""

    rotary: Rotary
    window: int | None = None  # tokens, the current one included; None: the stream's sinks and window
    slopes: tuple[float, ...] = ()  # ALiBi: what a token of distance takes off each query head's scores; (): nothing


@dataclass(frozen=True)
class ModelSpec:
    """A decoder as data: no family has a name here.

    A weight of `weights` is part of every layer, and what is not listed is not done: its presence is the flag.
    """

    name: str  # shown to people
    architecture: str  # as the checkpoint calls it: "llama", "qwen2"
    hidden: int
    heads: int  # H, query heads
    kv_heads: int  # K, key/value heads; divides H
    head_dim: int  # D, even
    intermediate: int
    vocab: int  # V
    context: int  # tokens seen in training
    tied: bool  # the head is the embedding
    views: tuple[View, ...]
    view_of: tuple[int, ...]  # the view of each layer
    weights: tuple[str, ...]  # of a layer, in the order in which they are met: "attention_norm", "q", "q_bias", …
    scale: float  # of q · k
    norm_eps: float
    activation: Activation = "silu"  # of the gate, or of the MLP's inner values where there is no gate
    embedding_scale: float = 1.0  # of the embedding's rows, as the residual stream is held
    stream_scale: float = 1.0  # s: the residual stream is held divided by it, and the eps of norms over it by s²
    logits_scale: float = 1.0  # of the logits, which the last norm's weight takes along
    off_by_one: bool = False  # softmax exp(x) / (1 + sum exp(x)): a head may look at nothing
    static_context: int | None = None  # tokens within which positions are as they stand here; None: any number
    norm_kind: NormKind = "rms"
    parallel: bool = False  # the MLP reads what attention reads, not what attention has added to
    clip: float | None = None  # q, k and v are kept within ± it, as the products leave them; None: they are as they are
    score_cap: float | None = None  # c: a score is c tanh(score / c); None: as it is
    logits_cap: float | None = None  # likewise of the logits

    def __post_init__(self) -> None:
        for field in ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab", "context"):
            if getattr(self, field) < 1:
                raise BadOption(f"model {field} = {getattr(self, field)}", "1 or more")
        if self.heads % self.kv_heads or self.head_dim % 2:
            raise BadOption(
                f"{self.heads} query heads on {self.kv_heads} key/value heads of {self.head_dim} dimensions",
                "query heads divisible by key/value heads, and an even dimension",
            )
        if sorted(set(self.view_of)) != list(range(len(self.views))):
            raise BadOption(f"layers of views {sorted(set(self.view_of))}", f"each of the {len(self.views)} views")
        if self.norm_kind == "rms" and any(weight.endswith("norm_bias") for weight in self.weights):
            raise BadOption("an RMSNorm with a bias", "biases of LayerNorm only")
        for view in self.views:
            if len(view.rotary.frequencies) != self.head_dim // 2:
                raise BadOption(f"{len(view.rotary.frequencies)} frequencies", f"{self.head_dim // 2}, one a pair")
            if view.slopes and (len(view.slopes) != self.heads or any(view.rotary.frequencies)):
                raise BadOption(f"{len(view.slopes)} slopes", f"{self.heads}, one a query head, none of which turns")

    @property
    def layers(self) -> int:
        """L."""
        return len(self.view_of)

    def as_data(self) -> dict[str, Any]:
        """As JSON holds it, without the name: what a bundle and its checkpoint have in common."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        del data["name"]
        return data

    @property
    def has_norm_bias(self) -> bool:
        """Norms of the residual stream have biases, the last one too."""
        return "attention_norm_bias" in self.weights

    @property
    def stream_eps(self) -> float:
        """The eps of norms over the residual stream as it is held."""
        return self.norm_eps / self.stream_scale**2

    def rings(self, stream: StreamSpec) -> tuple[LayerRing, ...]:
        """The rings that layers have, each once: the stream's own first, then the layers' own windows."""
        return tuple(sorted({self.ring(view, stream) for view in self.views}, key=lambda r: (not r.sinks, -r.capacity)))

    def ring_of(self, layer: int, stream: StreamSpec) -> int:
        """The place in `rings` of the layer's."""
        return self.rings(stream).index(self.ring(self.views[self.view_of[layer]], stream))

    def ring(self, view: View, stream: StreamSpec) -> LayerRing:
        """That of the layers of a view: their own sliding window where it is shorter than what the stream sees."""
        own = view.window is not None and view.window < stream.capacity
        return LayerRing(view.window, False) if own else LayerRing(stream.capacity, True)  # type: ignore[arg-type]


@dataclass(frozen=True)
class LayerRing:
    """What layers of one kind hold of a stream."""

    capacity: int  # tokens that a token sees at most
    sinks: bool  # whether the stream's sinks are pinned; without, it is the layer's own sliding window


@dataclass(frozen=True)
class StreamSpec:
    """What of the stream is fixed when the model is exported."""

    sinks: int = DEFAULT_SINKS  # the default of a stream; chosen anew whenever one starts
    window: int = DEFAULT_WINDOW  # tokens, the current one included, in addition to the default sinks
    max_sinks: int = DEFAULT_MAX_SINKS
    chunk: int = ROWS["onnx"].chunk  # T, most tokens a run
    positions: Positions = "cache"  # how far a sink seems: bounded as in the paper, or growing

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise BadOption(f"positions {self.positions!r}", " or ".join(POSITIONS))
        for name in ("sinks", "window", "max_sinks", "chunk"):
            if getattr(self, name) > LARGEST_SIZE:
                raise BadOption(f"{name} = {getattr(self, name)}", f"{LARGEST_SIZE} or less")
        if not 0 <= self.sinks <= self.max_sinks:
            raise BadOption(f"sinks = {self.sinks}", f"0 to max_sinks = {self.max_sinks}", "raise --max-sinks")
        Ring(self.sinks, self.capacity, self.chunk)
        Ring(self.max_sinks, self.capacity, self.chunk)

    @classmethod
    def fitted(
        cls,
        sinks: int = DEFAULT_SINKS,
        window: int = DEFAULT_WINDOW,
        max_sinks: int | None = None,
        chunk: int | None = None,
        positions: Positions = "cache",
        target: Target = "onnx",
    ) -> StreamSpec:
        """The spec with what was left open fitted to the window: the defaults where they go in, less if not."""
        chunk = max(1, min(ROWS[target].chunk, window // 2)) if chunk is None else chunk
        max_sinks = max(sinks, min(DEFAULT_MAX_SINKS, sinks + window - chunk)) if max_sinks is None else max_sinks
        return cls(sinks, window, max_sinks, chunk, positions)

    @property
    def capacity(self) -> int:
        """C: tokens that a token sees at most; the same for every number of sinks."""
        return self.sinks + self.window

    @property
    def rows(self) -> int:
        """Rows of every state buffer."""
        return self.ring(self.sinks).rows

    def ring(self, sinks: int | None = None) -> Ring:
        """The ring of a stream with `sinks` pinned tokens; BadOption if the bundle cannot hold that many."""
        sinks = self.sinks if sinks is None else sinks
        if not 0 <= sinks <= self.max_sinks:
            raise BadOption(
                f"sinks = {sinks}",
                f"0 to {self.max_sinks}, the most that this bundle was exported for",
                "export again with a larger --max-sinks",
            )
        return Ring(sinks, self.capacity, self.chunk)

    def layer_ring(self, ring: LayerRing, sinks: int | None = None) -> Ring:
        """The arithmetic of a layer's ring in a stream with `sinks` pinned tokens."""
        return self.ring(sinks) if ring.sinks else Ring(0, ring.capacity, self.chunk)
