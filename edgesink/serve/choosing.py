"""Chooses tokens for a client: within a grammar, where one is asked for, and with the chances that they had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgesink.errors import RunFailed
from edgesink.runtime.sampling import SamplingSpec, largest, make_sampler


@dataclass(frozen=True)
class Chance:
    """A token with the natural logarithm of its probability, before temperature and filters."""

    id: int
    logprob: float
    others: tuple[tuple[int, float], ...] = ()  # the most likely in its place, itself maybe among them


class Chooser:
    """A sampler of one answer.

    Args:
        matcher: of llguidance, at the beginning of its grammar; None takes any token.
        chances: how many tokens `chance` is to name; None leaves it out.

    Attributes:
        chance: of the token chosen last.
    """

    def __init__(self, spec: SamplingSpec, matcher: Any | None, chances: int | None) -> None:
        self._sample, self._matcher, self._chances = make_sampler(spec), matcher, chances
        self.chance: Chance | None = None

    def __call__(self, logits: np.ndarray, recent: Sequence[int]) -> int:
        """The next id; see `sampling.Sampler`."""
        allowed = logits if self._matcher is None else self._within_grammar(logits)
        chosen = self._sample(allowed, recent)
        if self._matcher is not None and not self._matcher.consume_token(chosen):
            raise RunFailed(f"the grammar does not take token {chosen} ({self._matcher.get_error()})")
        if self._chances is not None:
            self.chance = chance_of(logits, chosen, self._chances)
        return chosen

    def _within_grammar(self, logits: np.ndarray) -> np.ndarray:
        assert self._matcher is not None
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        if self._matcher.is_error():
            raise RunFailed(f"the grammar cannot go on ({self._matcher.get_error()})")
        return np.where(bits[: len(logits)], logits, np.float32(-np.inf))


def chance_of(logits: np.ndarray, chosen: int, others: int) -> Chance:
    """The chance of a token, float32 [V] given, and the most likely ones."""
    wide = logits.astype(np.float64)
    most = wide.max()
    logprobs = wide - (most + np.log(np.exp(wide - most).sum()))
    top = largest(logprobs, others) if others else ()
    return Chance(chosen, float(logprobs[chosen]), tuple((int(id_), float(logprobs[id_])) for id_ in top))
