"""Holds an artefact against the PyTorch oracle, token by token over the whole life of a ring.

Owns the schedule (which pieces a stream is fed in, so that chunks of all kinds meet the ring filling, the first
eviction and many wraps), the differences by stage, and the verdict. The weights are the same on both sides, so a
difference is a fault of the graph or its arithmetic; how much is allowed stands in `tolerances`.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edgesink.manifest import Parity
from edgesink.ring import Ring
from edgesink.verify.runners import Runner
from edgesink.verify.tolerances import Tolerance

STAGES = ("not full", "exactly full", "first eviction", "first lap", "wrapped")
GREEDY = 24  # tokens that both go on with at the end
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

    def add(self, expected: np.ndarray, found: np.ndarray) -> None:
        """Take in the logits [V] of one token."""
        difference = np.abs(expected.astype(np.float64) - found)
        self.compared += 1
        self.max_abs = max(self.max_abs, _finite(difference.max()))
        self.sum_abs += _finite(difference.mean())
        self.sum_kl += _finite(_divergence(expected, found))
        self.agreed += int(np.isfinite(found).all() and expected.argmax() == found.argmax())


@dataclass
class Report:
    """What verifying found."""

    tokens: int
    sinks: int
    tolerance: Tolerance
    runner: str
    laps: float  # times round the ring
    stages: dict[str, Stage] = field(default_factory=lambda: {name: Stage() for name in STAGES})
    greedy: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))  # the oracle's ids, the artefact's

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
        """What is out of tolerance, for people; nothing when all is well."""
        whole, limit = self.whole, self.tolerance
        kl, agreement = whole.sum_kl / whole.compared, whole.agreed / whole.compared
        found = []
        if not whole.max_abs <= limit.max_abs:
            found.append(f"max |Δlogit| {whole.max_abs:.2g} above {limit.max_abs:.2g}")
        if not kl <= limit.mean_kl:
            found.append(f"mean KL {kl:.2g} above {limit.mean_kl:.2g}")
        if not agreement >= limit.argmax:
            found.append(f"argmax agreement {agreement:.1%} below {limit.argmax:.0%}")
        return found

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
    runner: Runner,
    oracle: Oracle,
    ring: Ring,
    ids: np.ndarray,
    tolerance: Tolerance,
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Feed both the same ids [n], compare after every piece, then let both go on greedily.

    Args:
        runner: the artefact, at the start of a stream.
        oracle: with the same weights, sinks and window, at the start of a stream.
        ring: of the stream.
        ids: int64; to see every stage, more than `ring.sinks + ring.slots`.
        tolerance: for the verdict.
        progress: told the number of tokens done.
    """
    report = Report(len(ids), ring.sinks, tolerance, runner.name, laps(len(ids), ring))
    position = 0
    for size in pieces(len(ids), ring):
        piece = ids[position : position + size]
        for token_id in piece:
            expected = oracle.step(int(token_id))
        found = runner.feed(piece, position, ring.sinks)
        position += size
        report.stages[stage_of(position - 1, ring)].add(expected, found)
        progress(position)
    report.greedy = _greedy(runner, oracle, ring, position, expected, found)
    return report


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


def _greedy(
    runner: Runner, oracle: Oracle, ring: Ring, position: int, expected: np.ndarray, found: np.ndarray
) -> tuple[list[int], list[int]]:
    """What the oracle and the artefact go on with, each fed its own choice."""
    right, ours = [int(expected.argmax())], [int(found.argmax())]
    for place in range(position, position + GREEDY - 1):
        right.append(int(oracle.step(right[-1]).argmax()))
        ours.append(int(runner.feed(np.array(ours[-1:]), place, ring.sinks).argmax()))
    return right, ours


def _divergence(expected: np.ndarray, found: np.ndarray) -> float:
    """KL(expected || found) of the next-token distributions, nats."""
    log_p, log_q = log_softmax(expected), log_softmax(found)
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
