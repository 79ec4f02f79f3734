"""Time a token at several places of one stream, in turns: does token 1,000,000 cost what token 2,000 did?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgesink.gauges import milliseconds

if TYPE_CHECKING:
    from edgesink.runtime.session import Stream


@dataclass(frozen=True)
class Place:
    """Time of decode steps at one position."""

    position: int  # tokens fed before them
    p50_ms: float  # medians of the rounds
    p99_ms: float


def time_positions(
    stream: Stream,
    blocks: Iterator[np.ndarray],
    positions: Sequence[int],
    steps: int,
    rounds: int,
    report: Callable[[int], None] = lambda position: None,
) -> list[Place]:
    """Feed the text up to each position, keep the stream there, then time single steps from all of them in rounds.

    Args:
        stream: at its start.
        blocks: int64 ids, enough of them; fed in chunks, whose state takes as long to look at as that of single steps.
        positions: ascending.
        steps: timed a round at each position.
    """
    ids = np.empty(0, np.int64)
    with tempfile.TemporaryDirectory(prefix="edgesink-positions-") as folder:
        sessions = []
        for position in positions:
            while stream.position < position:
                ids = ids if len(ids) else next(blocks)
                count = min(len(ids), position - stream.position)
                stream.feed(ids[:count])
                ids = ids[count:]
                report(stream.position)
            sessions.append(Path(folder) / f"{position}.session")
            stream.save(sessions[-1])
        last = np.resize(ids if len(ids) else next(blocks), steps)
        times: list[list[list[float]]] = [[] for _ in positions]  # [position][round][step]
        for _ in range(rounds):
            for session, step_times in zip(sessions, times, strict=True):
                stream.restore(session)
                step_times.append([milliseconds(partial(_step, stream, last[i : i + 1])) for i in range(steps)])
    return [
        Place(position, *(float(np.median(np.percentile(rounds_ms, share, axis=1))) for share in (50, 99)))
        for position, rounds_ms in zip(positions, times, strict=True)
    ]


def _step(stream: Stream, token: np.ndarray) -> None:
    int(np.argmax(stream.feed(token)))
