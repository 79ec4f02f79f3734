"""Time per token: streaming compared with recomputing the window at several sizes, and streaming for very long.

Owns the clock and the medians. Recomputing is timed twice: through the same exported graph (a fresh stream is fed a
whole window for every token: the fair ratio) and as a dense forward of PyTorch, which is what the paper timed. The
engines differ, so only a ratio within one engine says what streaming saves.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesink.errors import BadOption
from edgesink.files import atomic_write
from edgesink.gauges import milliseconds, resident_bytes

if TYPE_CHECKING:
    from edgesink.runtime.session import Stream

FORMAT = 1


@dataclass(frozen=True)
class WindowTimes:
    """Medians at one window size, milliseconds per token; None where it was not timed."""

    window: int  # tokens seen, sinks included
    stream_ms: float | None = None  # ONNX graph, one token
    recompute_ms: float | None = None  # ONNX graph, a whole window for one token
    torch_stream_ms: float | None = None  # PyTorch, one token on a full key/value cache
    torch_recompute_ms: float | None = None  # PyTorch, a dense forward of the window, logits of the last token only

    @property
    def ratio(self) -> float | None:
        """What streaming saves in the graph."""
        return _quotient(self.recompute_ms, self.stream_ms)

    @property
    def torch_ratio(self) -> float | None:
        """What it saves in PyTorch."""
        return _quotient(self.torch_recompute_ms, self.torch_stream_ms)


def _quotient(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def time_window(stream: Stream, ids: np.ndarray, steps: int, repeats: int) -> WindowTimes:
    """Time a full ring, in rounds: the window recomputed, then single tokens through it.

    Args:
        stream: of the bundle to time.
        ids: int64, at least the capacity and `steps` more.
        steps: single tokens timed, shared among the rounds.
        repeats: whole windows timed.
    """
    capacity = stream.capacity
    _refill(stream, ids[:capacity])
    recomputed, streamed = [], []
    for part in np.array_split(np.arange(capacity, capacity + steps), repeats):
        recomputed.append(milliseconds(lambda: _refill(stream, ids[:capacity])))
        streamed += [milliseconds(lambda i=i: stream.feed(ids[i : i + 1])) for i in part]  # type: ignore[misc]
    return WindowTimes(capacity, float(np.median(streamed)), float(np.median(recomputed)))


def time_torch(times: WindowTimes, model: Any, ids: np.ndarray, steps: int, repeats: int) -> WindowTimes:
    """The same in PyTorch, on the device of the model; the window slides by being cut back to its size, which costs
    nothing here."""
    import torch
    from transformers import DynamicCache

    window = torch.tensor(ids[: times.window], device=model.device)[None]
    with torch.inference_mode():

        def recompute() -> None:
            model(window, use_cache=False, logits_to_keep=1)
            _finish(model)

        recompute()  # a GPU's first run compiles and plans
        dense = [milliseconds(recompute) for _ in range(repeats)]
        cache = DynamicCache()
        for start in range(0, times.window - 1, 512):
            stop = min(start + 512, times.window - 1)
            model(window[:, start:stop], cache=cache, logits_to_keep=1)

        def step() -> None:
            model(window[:, -1:], cache=cache, logits_to_keep=1)
            cache.crop(-1)
            _finish(model)

        stepped = [milliseconds(step) for _ in range(steps)]
    return dataclasses.replace(
        times, torch_stream_ms=float(np.median(stepped)), torch_recompute_ms=float(np.median(dense))
    )


def _finish(model: Any) -> None:
    """Wait for what a GPU still has to do."""
    import torch

    if model.device.type == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Stretch:
    """Part of a long run, one token at a time."""

    tokens: int  # fed when it ended
    p50_ms: float
    p90_ms: float
    p99_ms: float
    resident_bytes: int


class Endurance:
    """One token at a time through a stream, for a long time; resumes from a progress file.

    Args:
        stream: at its start.
        every: tokens per stretch.
        progress: JSON file of the stretches, with a session file in the same folder; None saves nothing.
    """

    def __init__(self, stream: Stream, every: int, progress: Path | None = None) -> None:
        self.stream, self.every, self.progress = stream, every, progress
        self.stretches: list[Stretch] = []
        if progress is not None and progress.is_file():
            self._load(progress)

    def run(self, ids: Iterator[int], tokens: int, report: Callable[[int], None] = lambda done: None) -> list[Stretch]:
        """Feed `ids`, which begin where the stream stands, until `tokens` have been fed."""
        while self.stream.position < tokens:
            times = []
            for _ in range(min(self.every, tokens - self.stream.position)):
                token = np.array([next(ids)])
                times.append(milliseconds(lambda token=token: self.stream.feed(token)))  # type: ignore[misc]
                report(self.stream.position)
            p50, p90, p99 = (float(p) for p in np.percentile(times, [50, 90, 99]))
            self.stretches.append(Stretch(self.stream.position, p50, p90, p99, resident_bytes()))
            self._save()
        return self.stretches

    def _save(self) -> None:
        """The session first, then the file that names it, then the session before goes."""
        if self.progress is None:
            return
        session = self._session(self.stream.position)
        self.stream.save(session)
        identity = self.stream.manifest.fingerprint
        data = {
            "format": FORMAT,
            "bundle": identity,
            "every": self.every,
            "stretches": [vars(s) for s in self.stretches],
        }
        with atomic_write(self.progress) as temporary:
            temporary.write_text(json.dumps(data), encoding="utf-8")
        for other in self.progress.parent.glob(f"{self.progress.name}.*.session"):
            if other != session:
                other.unlink()

    def _load(self, progress: Path) -> None:
        try:
            data = json.loads(progress.read_text(encoding="utf-8"))
            stretches = [Stretch(**stretch) for stretch in data["stretches"]]
            same = (data["format"], data["bundle"], data["every"]) == (
                FORMAT, self.stream.manifest.fingerprint, self.every,
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise BadOption(
                f"{progress} is not a progress file ({error})", "", "remove it, or name another file"
            ) from None
        if not same or not stretches:
            raise BadOption(f"{progress} belongs to another run", "", "remove it, or name another file")
        self.stretches = stretches
        self.stream.restore(self._session(stretches[-1].tokens))

    def _session(self, position: int) -> Path:
        assert self.progress is not None
        return self.progress.with_name(f"{self.progress.name}.{position}.session")


def _refill(stream: Stream, ids: np.ndarray) -> None:
    stream.reset()
    stream.feed(ids)
