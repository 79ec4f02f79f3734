"""The settings of the study: the three kinds of model, their size, and how they are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edgesink.errors import BadOption

Kind = Literal["vanilla", "zero-sink", "sink-token"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Size:
    """Of a model in the shape of Llama, with tied embeddings, as many key/value heads as query heads."""

    vocabulary: int = 512
    hidden: int = 96
    layers: int = 4
    head_dim: int = 32

    def __post_init__(self) -> None:
        if self.head_dim < 2 or self.head_dim % 2 or self.hidden % self.head_dim:
            found = f"a width of {self.hidden} and heads of {self.head_dim} dimensions"
            raise BadOption(found, "heads of an even number of dimensions that divides the width")

    @property
    def heads(self) -> int:
        """In every layer."""
        return self.hidden // self.head_dim

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


def runs(kinds: Sequence[str], seeds: int, first_seed: int = 0) -> list[Run]:
    """The models of `seeds` seeds, seed by seed: a study that is stopped early has every kind."""
    if unknown := set(kinds) - set(KINDS):
        raise BadOption(f"kind {min(unknown)!r}", " or ".join(KINDS))
    return [Run(kind, seed) for seed in range(first_seed, first_seed + seeds) for kind in KINDS if kind in kinds]
