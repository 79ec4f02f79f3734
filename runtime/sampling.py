"""From logits to the next token: a sampler is a function value, and the decode loop has no sampling branches.

Owns the order of the filters and the seeded generator. The Swift package does the same in the same order and is held
to the same golden file, so that a seed gives one answer on a laptop and on a phone:

1. repetition penalty on the ids seen lately (Keskar et al. 2019, CTRL: divide positive logits, multiply negative);
2. temperature; 3. top-k; 4. top-p (Holtzman et al. 2019); 5. min-p (Nguyen et al. 2024), each over the probabilities
   that the temperature left, ties going to the lower id;
6. one uniform number picks from what is kept, walked in ascending id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgesink.errors import BROKEN, BadNumbers, BadOption
from edgesink.sampling_defaults import SAMPLING_FIELDS, SamplingDefaults, check_sampling, sampling_words

Sampler = Callable[[np.ndarray, Sequence[int]], int]
"""(logits float32 [V], ids seen lately) -> next id."""


@dataclass(frozen=True)
class TokenRows:
    """The rows of the logits that have a token: an embedding often has more rows than the tokenizer has ids."""

    count: int  # rows from here on have none
    holes: tuple[int, ...] = ()  # rows before that have none

    @classmethod
    def of(cls, ids: Iterable[int]) -> TokenRows:
        """The rows of these ids."""
        known = np.unique(np.fromiter(ids, np.int64))
        count = int(known[-1]) + 1 if known.size else 0
        holes = () if len(known) == count else np.setdiff1d(np.arange(count), known, assume_unique=True).tolist()
        return cls(count, tuple(holes))

    def of_logits(self, logits: np.ndarray) -> np.ndarray:
        """float32 [V] -> [count] at most, without a chance for a hole; the argument is left as it is."""
        logits = logits[: self.count]
        if self.holes:
            logits = logits.copy()
            logits[list(self.holes)] = -np.inf
        return logits


_MASK64 = (1 << 64) - 1
_FIRST_CANDIDATES = 256  # sorted before more are asked for


@dataclass(frozen=True)
class SamplingSpec:
    """How the next token is chosen; the default is greedy."""

    temperature: float = 0.0  # 0 is greedy
    top_k: int = 0  # 0 keeps all
    top_p: float = 1.0  # (0, 1], 1 keeps all
    min_p: float = 0.0  # [0, 1), of the largest probability; 0 keeps all
    repetition_penalty: float = 1.0  # 1e-6 … 1e6, 1 is none
    repetition_window: int = 64  # ids looked back on
    seed: int | None = None  # None: a fresh one

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)
        if self.repetition_window < 0:
            raise BadOption(f"repetition_window = {self.repetition_window}", "0 or more")

    @classmethod
    def of_model(cls, defaults: SamplingDefaults | None, **chosen: Any) -> SamplingSpec:
        """The model's own sampling, where `chosen` has no value or None for a field; greedy where neither has one.

        Raises:
            BadOption: a value is out of range.
        """
        own = {} if defaults is None else {name: getattr(defaults, name) for name in SAMPLING_FIELDS}
        return cls(**(own | {name: value for name, value in chosen.items() if value is not None}))

    @property
    def words(self) -> str:
        """For people: "temperature 0.7, top-p 0.8"."""
        return sampling_words(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)


class SplitMix64:
    """The seeded generator (Steele, Lea, Flood 2014): five lines in any language, the same numbers in all."""

    def __init__(self, seed: int) -> None:
        self.state = seed & _MASK64

    def uniform(self) -> float:
        """The next number in [0, 1), 53 bits."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK64
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
        return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def seeded(seed: int | None) -> SplitMix64:
    """A generator with this seed, or a fresh one."""
    return SplitMix64(int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) if seed is None else seed)


def make_sampler(spec: SamplingSpec, generator: SplitMix64 | None = None) -> Sampler:
    """The sampler that `spec` describes; one for each stream, as it holds the generator's state.

    Args:
        generator: draws on with this one, whatever the seed of `spec`; None: a new one with that seed.

    BadNumbers where the largest logit is not a finite number; -inf is no chance.
    """
    if spec.temperature == 0:
        return lambda logits, recent: _largest_of(_penalised(logits, recent, spec))
    generator = generator or seeded(spec.seed)

    def sample(logits: np.ndarray, recent: Sequence[int]) -> int:
        logits = _penalised(logits, recent, spec).astype(np.float64)  # [V]
        largest = logits[_largest_of(logits)]
        with np.errstate(over="ignore"):  # by a very small temperature, which is greedy
            weights = np.exp((logits - largest) / spec.temperature)  # [V], the largest is 1
        kept = _kept(weights, spec)  # ids, ascending
        cumulative = np.cumsum(weights[kept])
        pick = np.searchsorted(cumulative, generator.uniform() * cumulative[-1], side="right")
        return int(kept[min(int(pick), len(kept) - 1)])

    return sample


def _largest_of(logits: np.ndarray) -> int:
    """The first id of the largest logit."""
    best = int(np.argmax(logits))  # of the first NaN, if there is one
    if not np.isfinite(logits[best]):
        raise BadNumbers(f"the logit of token id {best} is {logits[best]}", "finite numbers", BROKEN)
    return best


def _penalised(logits: np.ndarray, recent: Sequence[int], spec: SamplingSpec) -> np.ndarray:
    """The logits with the ids seen lately made less likely; the argument is left as it is."""
    if spec.repetition_penalty == 1 or not spec.repetition_window or not recent:
        return logits
    ids = np.unique(np.asarray(recent[-spec.repetition_window :], np.int64))
    logits = logits.copy()
    chosen = logits[ids]
    penalty = np.float32(spec.repetition_penalty)
    logits[ids] = np.where(chosen > 0, chosen / penalty, chosen * penalty)
    return logits


def _kept(weights: np.ndarray, spec: SamplingSpec) -> np.ndarray:
    """Ids that pass top-k, top-p and min-p, ascending. `weights`: unnormalised probabilities, largest 1."""
    if not spec.top_k and spec.top_p == 1:
        return np.flatnonzero(weights >= spec.min_p)
    count = spec.top_k or _FIRST_CANDIDATES
    while True:
        ids = largest(weights, count)
        mass = np.cumsum(weights[ids])
        total = mass[-1] if spec.top_k else weights.sum()
        if spec.top_k or mass[-1] >= spec.top_p * total or len(ids) == len(weights):
            break
        count *= 8
    nucleus = int(np.searchsorted(mass, spec.top_p * total, side="left")) + 1
    ids = ids[:nucleus]
    return np.sort(ids[weights[ids] >= spec.min_p])


def largest(weights: np.ndarray, count: int) -> np.ndarray:
    """The `count` ids, 1 or more, of largest weight, descending, ties by ascending id."""
    if count < len(weights):
        threshold = np.partition(weights, len(weights) - count)[len(weights) - count]
        ids = np.flatnonzero(weights >= threshold)
    else:
        ids = np.arange(len(weights))
    return ids[np.lexsort((ids, -weights[ids]))][:count]
