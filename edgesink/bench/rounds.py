"""Speed and memory with a full window: edgesink compared with other engines.

Owns the rounds and their medians. Every contender runs in a fresh process of its own (`worker.py`), all of them
once in every round, so that a noisy minute affects all alike. Perplexity on the same text is measured too:
nobody wins by being wrong. Knows no engine.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgesink.errors import BadOption, EdgesinkError, MissingPackage

WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Contender:
    """One engine with one model and one way to stream forever."""

    label: str
    engine: str  # as the worker knows it
    models: Mapping[int, Path]  # by window
    python: str = sys.executable
    chunks: tuple[int, ...] = (0,)  # tokens fed at once, each timed; 0 is the whole window
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What all contenders of a round have in common."""

    window: int  # tokens seen, sinks included
    threads: int
    sinks: int
    prompt: int  # tokens until the first is chosen
    steps: int  # single tokens timed, at least

    def __str__(self) -> str:
        return f"window {self.window}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass
class Figures:
    """One contender in one setting, a list entry per round."""

    label: str
    setting: Setting
    version: str = ""
    steps_ms: list[list[float]] = field(default_factory=list)
    prefill: dict[str, list[float]] = field(default_factory=dict)  # tokens/s by chunk
    first_token_s: list[float] = field(default_factory=list)  # process started, nothing loaded
    peak_bytes: list[int] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)  # a token, of all processors, where the system tells
    state_bytes: int | None = None  # where the engine tells
    perplexity: float | None = None

    def add(self, result: dict[str, Any]) -> None:
        """One round, as the worker tells it."""
        self.version, self.state_bytes = result["version"], result.get("state_bytes")
        self.steps_ms.append(result["steps"])
        self.first_token_s.append(result["first_token_s"])
        self.peak_bytes.append(result["peak_bytes"])
        if result.get("joules") is not None:
            self.joules.append(result["joules"])
        for chunk, speed in result["prefill"].items():
            self.prefill.setdefault(chunk, []).append(speed)

    @property
    def tokens_per_second(self) -> float:
        """Median of the rounds; all that a stream takes to go on is in it."""
        return float(np.median(self.speeds))

    @property
    def speeds(self) -> list[float]:
        """Tokens/s of every round."""
        return [1e3 * len(steps) / sum(steps) for steps in self.steps_ms]

    @property
    def prefill_medians(self) -> dict[str, float]:
        """Tokens/s by chunk."""
        return {chunk: float(np.median(speeds)) for chunk, speeds in self.prefill.items()}

    @property
    def prefill_per_second(self) -> tuple[str, float]:
        """(chunk, tokens/s) of the fastest chunk, by its median."""
        medians = self.prefill_medians
        best = max(medians, key=lambda chunk: medians[chunk])
        return best, medians[best]

    def percentile(self, share: float) -> float:
        """Milliseconds per token: the median of the rounds' percentiles."""
        return float(np.median([np.percentile(steps, share) for steps in self.steps_ms]))

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "label": self.label,
            "version": self.version,
            "window": self.setting.window,
            "threads": self.setting.threads,
            "rounds": len(self.steps_ms),
            "tokens_per_second": self.tokens_per_second,
            "tokens_per_second_by_round": self.speeds,
            "ms": {name: self.percentile(share) for name, share in PERCENTILES.items()},
            "prefill_tokens_per_second": self.prefill_medians,
            "first_token_s": float(np.median(self.first_token_s)),
            "peak_bytes": int(np.median(self.peak_bytes)),
            "joules_per_token": float(np.median(self.joules)) if self.joules else None,
            "state_bytes": self.state_bytes,
            "perplexity": self.perplexity,
        }


PERCENTILES = {"p50": 50, "p95": 95, "p99": 99, "max": 100}


def compare(
    contenders: Sequence[Contender],
    settings: Sequence[Setting],
    ids: np.ndarray,
    rounds: int,
    perplexity: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> list[Figures]:
    """Run every contender once a round in every setting. Ctrl-C ends it after the last whole round.

    Args:
        ids: int64, fed to all.
        perplexity: tokens scored once for every contender and window, one by one; 0 measures none.
    Raises:
        EdgesinkError: a contender failed; the error contains its last line.
    """
    figures: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="edgesink-bench-") as folder:
        np.save(Path(folder) / "ids.npy", ids)
        try:
            for setting in settings:
                rows = [Figures(contender.label, setting) for contender in contenders]
                figures += rows
                for number in range(1, rounds + 1):
                    results = [_run(contender, setting, Path(folder)) for contender in contenders]
                    for row, result in zip(rows, results, strict=True):
                        row.add(result)
                    speeds = ", ".join(f"{row.label} {row.speeds[-1]:.1f}" for row in rows)
                    report(f"{setting}, round {number} of {rounds}, tokens/s: {speeds}")
            for window, contender, rows in _by_model(contenders, figures) if perplexity else ():
                score = _perplexity(contender, rows[0].setting, Path(folder), perplexity)
                for row in rows:
                    row.perplexity = score
                report(f"window {window}, {contender.label}: perplexity {score}")
        except KeyboardInterrupt:
            report("stopped; what was measured follows")
    return [row for row in figures if row.steps_ms]


def _by_model(
    contenders: Sequence[Contender], figures: Sequence[Figures]
) -> Iterator[tuple[int, Contender, list[Figures]]]:
    """(window, contender, its rows): perplexity does not depend on threads."""
    for window in sorted({row.setting.window for row in figures}):
        for contender in contenders:
            yield window, contender, [r for r in figures if r.label == contender.label and r.setting.window == window]


def _perplexity(contender: Contender, setting: Setting, folder: Path, tokens: int) -> float | None:
    """Of the tokens after the window is full; None for an engine that cannot be fed."""
    nats = _run(contender, setting, folder, tokens).get("nats")
    return math.exp(float(np.mean(nats[setting.window :]))) if nats else None


def _run(contender: Contender, setting: Setting, folder: Path, perplexity: int = 0) -> dict[str, Any]:
    job = {
        **vars(setting),
        **contender.options,
        "engine": contender.engine,
        "model": str(contender.models[setting.window]),
        "chunks": contender.chunks,
        "ids": str(folder / "ids.npy"),
        "perplexity": perplexity,
    }
    return run_worker(contender.python, job, contender.label, folder)


def run_worker(python: str, job: Mapping[str, Any], label: str, folder: Path) -> dict[str, Any]:
    """Run a job in a process of `python` and return its answer, which it writes into `folder`."""
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    # -P: the worker's neighbours here are ours, not modules of the world it runs in
    done = run_python(python, "-P", str(WORKER), json.dumps({**job, "answer": str(answer)}))
    if done.returncode or not answer.is_file():
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        if "No module named" in last:
            raise MissingPackage(f"{label}: {last}", "", "install it, or name a Python that has it with --peer-python")
        raise EdgesinkError(f"{label} failed: {last}")
    result: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return result


def run_python(python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python` with these arguments and capture stderr; BadOption if there is no such program."""
    command = [python, *arguments]
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise BadOption(f"cannot run {python} ({error.strerror})", "a Python interpreter") from None
