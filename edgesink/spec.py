"""What a model is and how it streams: frozen facts, checked when made, derived where they can be.

Owns `ModelSpec` (the architecture, read from a checkpoint), `RopeSpec` (its rotary frequencies) and `StreamSpec`
(what the exporter was asked for). Knows no file format and no tensor library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgesink.errors import BadOption
from edgesink.ring import Ring
from edgesink.targets import POSITIONS, ROWS, Target
from edgesink.targets import Positions as Positions
from edgesink.targets import Precision as Precision  # for the emitters

ComputeUnits = Literal["cpu_only", "cpu_and_gpu", "cpu_and_ne", "all"]

Device = Literal["cpu", "cuda"]
Provider = Literal["cpu", "plain", "cuda"]  # plain: the CPU with no operators but ONNX Runtime's own

DEFAULT_SINKS = 4
DEFAULT_WINDOW = 1020
DEFAULT_MAX_SINKS = 128


@dataclass(frozen=True)
class Llama3Scaling:
    """Frequencies stretched by wavelength, as Llama 3.1 does (transformers `_compute_llama3_parameters`)."""

    factor: float  # > 1
    low_freq_factor: float
    high_freq_factor: float  # > low_freq_factor
    original_context: int  # tokens


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding over all D dimensions of a head, halves paired (rotate_half)."""

    theta: float
    scaling: Llama3Scaling | None = None

    def inverse_frequencies(self, head_dim: int) -> np.ndarray:
        """Radians per token of each pair, float64 [D/2], rounded to float32 first as transformers holds them."""
        frequency = self.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
        if self.scaling is not None:
            frequency = _llama3(frequency, self.scaling)
        return frequency.astype(np.float32).astype(np.float64)


def _llama3(frequency: np.ndarray, scaling: Llama3Scaling) -> np.ndarray:
    """Long wavelengths divided by `factor`, short ones kept, those between blended."""
    turns = scaling.original_context * frequency / (2 * math.pi)  # full turns within the original context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return keep * frequency + (1.0 - keep) * frequency / scaling.factor


@dataclass(frozen=True)
class ModelSpec:
    """A pre-norm decoder of the Llama family: RMSNorm, grouped queries, rotary positions, gated SiLU."""

    name: str  # shown to people
    architecture: str  # as the checkpoint calls it: "llama", "mistral"
    layers: int  # L
    hidden: int
    heads: int  # H, query heads
    kv_heads: int  # K, key/value heads; divides H
    head_dim: int  # D, even
    intermediate: int
    vocab: int  # V
    norm_eps: float
    rope: RopeSpec
    tied: bool  # the head is the embedding
    context: int  # tokens seen in training

    def __post_init__(self) -> None:
        for field in ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab", "context"):
            if getattr(self, field) < 1:
                raise BadOption(f"model {field} = {getattr(self, field)}", "1 or more")
        if self.heads % self.kv_heads or self.head_dim % 2:
            raise BadOption(
                f"{self.heads} query heads on {self.kv_heads} key/value heads of {self.head_dim} dimensions",
                "query heads divisible by key/value heads, and an even dimension",
            )

    @property
    def groups(self) -> int:
        """G: query heads that share a key/value head."""
        return self.heads // self.kv_heads


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
