"""Perplexity of a text that is longer than the window, while it streams by.

Owns the four ways of reading that the paper compares (section 4.1, figures 3 and 5) and their running curves:
`sinks` and `window` (no sinks) go through the exported graph; `recompute` fills a fresh stream of that graph with the
last `capacity` tokens for every token that it scores, or for every few (`Sampling.run`), so only a sample of them;
`dense` keeps every key, in PyTorch, and stops at a limit. Memory does not grow with the text, except for one row of
numbers every `every` tokens and the sampled ones. Draws nothing.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from edgesink.errors import BadOption
from edgesink.evaluate.scoring import Scorer
from edgesink.evaluate.texts import Block, Text
from edgesink.gauges import resident_bytes

Mode = Literal["dense", "window", "sinks", "recompute"]
MODES: tuple[Mode, ...] = ("dense", "window", "sinks", "recompute")
BLOCK = 1024  # tokens between two looks at the clock


@dataclass(frozen=True)
class Sampling:
    """Which tokens are scored, and which of them `recompute` scores."""

    tokens: int
    stride: int  # of every `stride` tokens the last `run` are sampled, once the window is full
    capacity: int
    run: int = 1  # tokens that share a recomputed window: the first of them sees `capacity` tokens, the others more

    def __post_init__(self) -> None:
        if not 1 <= self.run <= self.stride:
            raise BadOption(f"--run {self.run}", f"1 to {self.stride}, the --stride")

    def sampled(self, block: Block) -> np.ndarray:
        """Indices in `block` of the sampled tokens."""
        places = np.arange(block.start, block.start + len(block.ids))
        late = places >= self.capacity + self.run - 1
        return np.flatnonzero((places % self.stride >= self.stride - self.run) & late)


@dataclass
class Curve:
    """What one way of reading measured; a row is `every` tokens."""

    mode: Mode
    sinks: int
    positions: str
    every: int
    position: int = 0  # tokens read
    nats: list[float] = field(default_factory=list)  # sum of a row
    counts: list[int] = field(default_factory=list)  # tokens scored of a row
    seconds: list[float] = field(default_factory=list)  # a row took
    resident: list[int] = field(default_factory=list)  # bytes of this process when the row ended
    sample: list[float] = field(default_factory=list)  # nats of the sampled tokens, in order

    @property
    def label(self) -> str:
        """For tables and legends."""
        name = f"{self.sinks} sink{'s' * (self.sinks != 1)}" if self.mode == "sinks" else self.mode
        return name + (", original positions" if self.positions == "original" else "")

    def add(self, block: Block, nats: np.ndarray, seconds: float) -> None:
        """Take in the nats of a block, or of some of its tokens."""
        row = block.start // self.every
        while len(self.nats) <= row:
            for column in (self.nats, self.counts, self.seconds, self.resident):
                column.append(0)
        self.nats[row] += float(nats.sum(dtype=np.float64))
        self.counts[row] += len(nats)
        self.seconds[row] += seconds
        self.resident[row] = resident_bytes()
        self.position = block.start + len(block.ids)

    @property
    def perplexity(self) -> float:
        """Of every token scored."""
        return perplexity(sum(self.nats), sum(self.counts))

    def perplexity_from(self, start: int) -> float:
        """Of the tokens in rows that begin at `start` or later."""
        first = -(-start // self.every)
        return perplexity(sum(self.nats[first:]), sum(self.counts[first:]))

    def rows(self) -> list[float]:
        """Perplexity of each row; nan where nothing was scored."""
        return [perplexity(nats, count) for nats, count in zip(self.nats, self.counts, strict=True)]

    def running(self) -> list[float]:
        """Perplexity from the start to the end of each row."""
        nats, counts = np.cumsum(self.nats), np.cumsum(self.counts)
        return [perplexity(float(n), int(c)) for n, c in zip(nats, counts, strict=True)]


def perplexity(nats: float, count: int) -> float:
    """exp of the mean, nan for nothing."""
    return math.exp(min(nats / count, 700.0)) if count else math.nan


class Reader(Protocol):
    """One way of reading a text."""

    def read(self, block: Block, sampling: Sampling) -> np.ndarray:
        """Nats of the targets of the block that this way scores."""


OnBlock = Callable[[Curve], None]
"""Called after every block."""


def follow(reader: Reader, curve: Curve, text: Text, sampling: Sampling, on_block: OnBlock) -> None:
    """Read on from where `curve` stands to the end, in blocks that end where a row ends."""
    for block in _within_rows(text.blocks(sampling.tokens, BLOCK, curve.position), curve.every):
        began = time.perf_counter()
        nats = reader.read(block, sampling)
        curve.add(block, nats, time.perf_counter() - began)
        whole = len(nats) == len(block.ids)
        curve.sample += [float(x) for x in (nats[sampling.sampled(block)] if whole else nats)]
        on_block(curve)


def _within_rows(blocks: Iterator[Block], every: int) -> Iterator[Block]:
    """The same tokens, cut again where a row ends."""
    for block in blocks:
        start, stop = block.start, block.start + len(block.ids)
        edges = [start, *range((start // every + 1) * every, stop, every), stop]
        for a, b in itertools.pairwise(edges):
            yield Block(a, block.ids[a - start : b - start], block.targets[a - start : b - start])


class Streaming:
    """`sinks`, and `window` with 0 of them: the exported graph reads endlessly."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def read(self, block: Block, sampling: Sampling) -> np.ndarray:
        return self.scorer.feed(block.ids, block.targets)


class Recompute:
    """Every run of sampled tokens sees a fresh stream of the last tokens, in which nothing has been evicted.

    What the model reads texts behind, a begin-of-sequence token say, stands in front of every window. The first of a
    run sees exactly `capacity` tokens and the others one more each: compared with streaming, a baseline that is helped,
    never hindered. The scorer's own capacity must hold them all.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._front = np.array(scorer.manifest.first_ids, np.int64)  # a fresh stream begins with them too
        self._recent = np.empty(0, np.int64)  # the last ids, up to a window

    def read(self, block: Block, sampling: Sampling) -> np.ndarray:
        ids = np.concatenate([self._recent, block.ids])
        following = np.append(ids[1:], block.targets[-1])
        before = len(self._recent)
        nats = [np.empty(0, np.float32)]
        for run in _runs(sampling.sampled(block)):
            first, last = before + int(run[0]), before + int(run[-1]) + 1
            window = slice(max(0, first + 1 - sampling.capacity + len(self._front)), last)
            self.scorer.reset(self.scorer.ring.sinks)
            seen = np.append(self._front, ids[window])
            targets = np.append(self._front, following[window])  # those in front are not looked at
            nats.append(self.scorer.feed(seen, targets)[-len(run) :])
        self._recent = ids[-sampling.capacity :]
        return np.concatenate(nats)

    def warm(self, text: Text, start: int, capacity: int) -> None:
        """Keep what comes before `start`, to continue from there."""
        before = max(0, start - capacity)
        parts = [block.ids for block in text.blocks(start, BLOCK, before)]
        self._recent = np.concatenate(parts) if parts else self._recent


def _runs(places: np.ndarray) -> list[np.ndarray]:
    """Ascending places, cut wherever one does not follow the one before."""
    return np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(places) else []


class Dense:
    """Every key is kept, in PyTorch; memory and time grow, so it stops."""

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        self.model, self._cache = model, DynamicCache()

    def read(self, block: Block, sampling: Sampling) -> np.ndarray:
        import torch

        nats = []
        with torch.inference_mode():
            for start in range(0, len(block.ids), 256):
                part = slice(start, start + 256)
                ids = torch.tensor(block.ids[part], device=self.model.device)[None]
                targets = torch.tensor(block.targets[part], device=self.model.device)
                logits = self.model(ids, cache=self._cache, use_cache=True).logits[0]  # [T, V]
                nats.append(torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none").cpu().numpy())
        return np.concatenate(nats)


def paired_ratio(curve: Curve, baseline: Curve, run: int = 1) -> tuple[float, float, int]:
    """Perplexity of `curve` over that of `baseline` on the sampled tokens of both: (ratio, standard error, tokens).

    Neighbours are alike, so the error is that of the means of runs of `run` tokens.
    """
    runs = min(len(curve.sample), len(baseline.sample)) // run
    if runs < 2:
        raise BadOption(
            f"{runs * run} sampled tokens", f"at least {2 * run}", "use more --tokens or a smaller --stride"
        )
    difference = np.array(curve.sample[: runs * run]) - np.array(baseline.sample[: runs * run])
    means = difference.reshape(runs, run).mean(1)
    ratio = math.exp(means.mean())
    return ratio, ratio * float(means.std(ddof=1)) / math.sqrt(runs), runs * run
