"""The curves that `edgesink eval ppl` measures, and how each of them is run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesink.errors import BadOption
from edgesink.evaluate.perplexity import (
    MODES,
    Curve,
    Dense,
    Mode,
    OnBlock,
    Reader,
    Recompute,
    Sampling,
    Streaming,
    follow,
)
from edgesink.evaluate.progress import Progress
from edgesink.evaluate.scoring import Scorer
from edgesink.evaluate.texts import Text
from edgesink.spec import Device


@dataclass(frozen=True)
class Planned:
    """One curve to measure."""

    mode: Mode
    sinks: int
    positions: str


def bundle_key(one: Planned) -> str:
    """Which of a measurement's bundles a curve is read with."""
    return "recompute" if one.mode == "recompute" else one.positions


def planned_curves(modes: Iterable[str], sinks: Iterable[int], positions: Sequence[str]) -> list[Planned]:
    """The curves of these options, each once: 0 sinks is `window`, where positions make no difference."""
    planned = []
    for mode in modes:
        if mode not in MODES:
            raise BadOption(f"mode {mode!r}", f"one of {', '.join(MODES)}")
        if mode == "sinks":
            with_sinks = [Planned("sinks", count, place) for place in positions for count in sinks if count]
            planned += [Planned("window", 0, "cache")] * (0 in sinks) + with_sinks
        else:
            planned.append(Planned(mode, 0, "cache"))
    return list(dict.fromkeys(planned))


@dataclass(frozen=True)
class Measurement:
    """A text, the bundles to read it with, and how much of it."""

    bundles: dict[str, Path]  # by positions; "recompute", one that evicts nothing of a recomputed window
    text: Text
    sampling: Sampling
    every: int  # tokens per row
    dense_limit: int  # tokens
    dense_model: Callable[[], Any] | None  # PyTorch, with the weights of the bundle; None if no mode is dense
    threads: int | None = None
    device: Device = "cpu"

    def run(self, planned: Sequence[Planned], progress: Progress, on_block: OnBlock) -> list[Curve]:
        """Every curve, one after the other; those that `progress` has completely are not run again."""
        return [self._run_one(one, progress, on_block) for one in planned]

    def _run_one(self, one: Planned, progress: Progress, on_block: OnBlock) -> Curve:
        limit = min(self.sampling.tokens, self.dense_limit) if one.mode == "dense" else self.sampling.tokens
        sampling = dataclasses.replace(self.sampling, tokens=limit)
        fresh = Curve(one.mode, one.sinks, one.positions, self.every)
        known = progress.curves.get(fresh.label)
        if known is not None and known.position >= limit:
            return known
        scorer = None if one.mode == "dense" else Scorer(self.bundles[bundle_key(one)], self.threads, self.device)
        resumable = scorer if one.mode in ("window", "sinks") else None
        if one.mode == "dense":
            progress.curves.pop(fresh.label, None)  # its cache is not kept: from the start
        curve = progress.start(fresh, resumable)
        reader = self._reader(one, scorer, curve.position)

        def report_and_save(curve: Curve) -> None:
            on_block(curve)
            if progress.due():
                progress.save(curve, resumable)

        follow(reader, curve, self.text, sampling, report_and_save)
        progress.save(curve, resumable, done=True)
        return curve

    def _reader(self, one: Planned, scorer: Scorer | None, start: int) -> Reader:
        if scorer is None:
            assert self.dense_model is not None, "a mode is dense"
            return Dense(self.dense_model())
        if one.mode == "recompute":
            recompute = Recompute(scorer)
            recompute.warm(self.text, start, self.sampling.capacity)
            return recompute
        return Streaming(scorer)
