"""The settings of the study: the three kinds of model, their size, and how they are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edgesink.errors import BadOption

Kind = Literal["vanilla", "zero-sink", "sink-token"]
KINDS: tuple[Kind, ...] = get_args(Kind)
HEAD_DIM = 32


@dataclass(frozen=True)
class Size:
    """Of a model in the shape of Llama, with tied embeddings, as many key/value heads as query heads."""

    vocabulary: int = 512
    hidden: int = 96
    layers: int = 4

    @property
    def heads(self) -> int:
        """Of HEAD_DIM dimensions each."""
        return self.hidden // HEAD_DIM

    @property
    def intermediate(self) -> int:
        """Width of the MLP."""
        return 3 * self.hidden


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: AdamW, a short warm-up, a cosine to zero."""

    steps: int = 3000
    batch: int = 8  # samples a step
    length: int = 128  # tokens of text a sample, without the sink token
    learning_rate: float = 4e-3
    weight_decay: float = 0.1
    warmup_steps: int = 100
    save_every: int = 250  # steps; a run that was stopped goes on from the last save
    look_every: int = 50  # steps between two looks at the attention maps


@dataclass(frozen=True)
class Run:
    """One model of the study."""

    kind: Kind
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.kind}-{self.seed}"


def runs(kinds: Sequence[str], seeds: int) -> list[Run]:
    """The models of the study, seed by seed: a study that is stopped early has every kind."""
    if unknown := set(kinds) - set(KINDS):
        raise BadOption(f"kind {min(unknown)!r}", " or ".join(KINDS))
    return [Run(kind, seed) for seed in range(seeds) for kind in KINDS if kind in kinds]
