"""Compares artefacts with the PyTorch oracle, token by token over the whole life of a ring.

Owns the schedule (which pieces a stream is fed in, so that chunks of all kinds meet the ring filling, the first
eviction and many wraps), the differences by stage, and the verdict. The weights are the same on both sides, so a
difference is a fault of the graph or its arithmetic; how much is allowed stands in `tolerances`. What the oracle says
is `expected`, what an artefact says is `actual`.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edgesink.manifest import Parity
from edgesink.ring import Ring
from edgesink.verify.runners import Runner, RunnerKind
from edgesink.verify.tolerances import Tolerance

STAGES = ("not full", "exactly full", "first eviction", "first lap", "wrapped")
GREEDY = 24  # tokens that each goes on with at the end
LARGEST = 1e9  # stands for a difference that is not a number


class Oracle(Protocol):
    """What is asked of `edgesink.reference.Reference`."""

    def step(self, token_id: int) -> np.ndarray:
        """Feed one id; float32 [V]."""


@dataclass
class Stage:
    """Differences in one stage of the ring's life."""

    compared: int = 0
    max_abs: float = 0.0
    sum_abs: float = 0.0  # of mean differences
    sum_kl: float = 0.0
    agreed: int = 0

    def add(self, expected: np.ndarray, actual: np.ndarray) -> None:
        """Take in the logits [V] of one token."""
        with np.errstate(invalid="ignore"):  # what is not a number counts as far off
            difference = np.abs(expected.astype(np.float64) - actual)
            divergence = _divergence(expected, actual)
        self.compared += 1
        self.max_abs = max(self.max_abs, _finite(difference.max()))
        self.sum_abs += _finite(difference.mean())
        self.sum_kl += _finite(divergence)
        self.agreed += int(np.isfinite(actual).all() and expected.argmax() == actual.argmax())


@dataclass
class Report:
    """How far one runner's artefact is from the oracle."""

    tokens: int
    sinks: int
    tolerance: Tolerance
    runner: str
    laps: float  # times round the ring
    kind: RunnerKind = "target"
    structure: list[str] = field(default_factory=list)  # what contradicts the structure of a ring, a sentence each
    stages: dict[str, Stage] = field(default_factory=lambda: {name: Stage() for name in STAGES})
    greedy: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))  # expected ids, actual ids

    @property
    def whole(self) -> Stage:
        """All stages together."""
        stages = self.stages.values()
        total = Stage(
            compared=sum(s.compared for s in stages),
            max_abs=max(s.max_abs for s in stages),
            sum_abs=sum(s.sum_abs for s in stages),
            sum_kl=sum(s.sum_kl for s in stages),
            agreed=sum(s.agreed for s in stages),
        )
        return total

    @property
    def failures(self) -> list[str]:
        """What is wrong, for people: the structure, then what is out of tolerance; nothing when all is well."""
        whole, limit = self.whole, self.tolerance
        kl, agreement = whole.sum_kl / whole.compared, whole.agreed / whole.compared
        failures = list(self.structure)
        if not whole.max_abs <= limit.max_abs:
            failures.append(f"max |Δlogit| {whole.max_abs:.2g} above {limit.max_abs:.2g}")
        if not kl <= limit.mean_kl:
            failures.append(f"mean KL {kl:.2g} above {limit.mean_kl:.2g}")
        if not agreement >= limit.argmax:
            failures.append(f"argmax agreement {agreement:.1%} below {limit.argmax:.0%}")
        return failures

    def parity(self) -> Parity:
        """The manifest's record."""
        whole = self.whole
        return Parity(
            tokens=self.tokens,
            max_abs_diff=whole.max_abs,
            mean_abs_diff=whole.sum_abs / whole.compared,
            argmax_agreement=whole.agreed / whole.compared,
            passed=not self.failures,
            runner=self.runner,
            date=datetime.date.today().isoformat(),
        )


def verify(
    candidates: Sequence[tuple[Runner, Tolerance]],
    oracle: Oracle,
    ring: Ring,
    ids: np.ndarray,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Report]:
    """Feed the oracle and all candidates the same ids [n], compare after every piece, then let each go on greedily.

    They are stepped side by side, so the oracle, the slowest of them, runs once, and none of its logits are kept.

    Args:
        candidates: runners at the start of a stream, each with what is allowed of it.
        oracle: with the same weights, sinks and window, at the start of a stream.
        ring: of the stream.
        ids: int64; to see every stage, more than `ring.sinks + ring.slots`.
        progress: told the number of tokens done.
    Returns:
        A report for each candidate, in their order.
    """
    runners = [runner for runner, _ in candidates]
    rounds = laps(len(ids), ring)
    reports = [Report(len(ids), ring.sinks, limit, runner.name, rounds, runner.kind) for runner, limit in candidates]
    position = 0
    for size in pieces(len(ids), ring):
        piece = ids[position : position + size]
        for token_id in piece:
            expected = oracle.step(int(token_id))
        actual = [runner.feed(piece, position, ring.sinks) for runner in runners]
        position += size
        for report, logits in zip(reports, actual, strict=True):
            report.stages[stage_of(position - 1, ring)].add(expected, logits)
        progress(position)
    expected_ids = _greedy(lambda token_id, place: oracle.step(token_id), expected, position)
    for report, runner, logits in zip(reports, runners, actual, strict=True):
        report.greedy = expected_ids, _greedy(_steps_of(runner, ring.sinks), logits, position)
    return reports


def pieces(total: int, ring: Ring) -> Iterator[int]:
    """Sizes that `total` tokens are fed in: single tokens around the first eviction, elsewhere sizes of all kinds."""
    sizes = itertools.cycle([ring.chunk, 1, 1, min(7, ring.chunk), 1, max(1, ring.chunk - 1), 1, 1, 1])
    full = range(ring.capacity - 3, ring.capacity + 3)
    position = 0
    while position < total:
        size = 1 if position in full else next(sizes)
        if position < full.start:
            size = min(size, full.start - position)
        size = min(size, total - position)
        yield size
        position += size


def stage_of(token: int, ring: Ring) -> str:
    """Which stage of the ring's life `token` belongs to."""
    if token < ring.capacity - 1:
        return "not full"
    if token == ring.capacity - 1:
        return "exactly full"
    if token == ring.capacity:
        return "first eviction"
    return "first lap" if token < ring.sinks + ring.slots else "wrapped"


def laps(tokens: int, ring: Ring) -> float:
    """How many times `tokens` tokens go round the ring."""
    return max(0, tokens - ring.sinks) / ring.slots


Step = Callable[[int, int], np.ndarray]
"""Feeds an id that stands at a position; float32 [V], the logits after it."""


def _steps_of(runner: Runner, sinks: int) -> Step:
    return lambda token_id, position: runner.feed(np.array([token_id]), position, sinks)


def _greedy(step: Step, logits: np.ndarray, position: int) -> list[int]:
    """The ids that `step` goes on with after `logits`, always fed its own choice, the first of them at `position`."""
    ids = [int(logits.argmax())]
    for place in range(position, position + GREEDY - 1):
        ids.append(int(step(ids[-1], place).argmax()))
    return ids


def _divergence(expected: np.ndarray, actual: np.ndarray) -> float:
    """KL(expected || actual) of the next-token distributions, nats."""
    log_p, log_q = log_softmax(expected), log_softmax(actual)
    return float((np.exp(log_p) * (log_p - log_q)).sum())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log probabilities in float64, [V]; NaN where logits are not finite."""
    x = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        x = x - x.max()
        shifted: np.ndarray = x - np.log(np.exp(x).sum())
    return shifted


def _finite(x: float) -> float:
    return float(x) if np.isfinite(x) else LARGEST
