"""How long a search takes in a memory of a million tokens, and what keeping them costs: made-up passages and vectors.

    python scripts/memory_million.py --width 128

The vectors lie around a few hundred centres, as those of a model do; a message has ten tokens that matter.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from edgesink.gauges import resident_bytes
from edgesink.memory.archive import Archive, NewPassage
from edgesink.memory.calibration import Calibration, Numbers, normalised
from edgesink.memory.sample_talk import chatter
from edgesink.memory.search import AsFed, Asked, search

PASSAGES, TOKENS, MATTER, TURN = 50_000, 20, 11, 100  # a sentence each
CELLS, SPREAD = 512, 0.08
SEARCHES, ASKED = 100, 10  # and tokens of a message that matter


def main() -> None:
    """Fill a memory, and search it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=128, help="numbers in a value row: key/value heads x size")
    width = parser.parse_args().width
    draw = np.random.default_rng(0)
    centres = normalised(draw.normal(size=(CELLS, width)).astype(np.float32))
    zeros, ones = np.zeros(width, np.float32), np.ones(width, np.float32)
    numbers = Numbers(0, 0, -9.0, -9.0, 0.0, 0.5, 0.5)
    made = Calibration(
        "made up", numbers, zeros, ones, zeros, np.zeros((2, width), np.float32), np.zeros(2, np.float32)
    )

    def rows(count: int) -> np.ndarray:
        noise = SPREAD * draw.normal(size=(count, width))
        return (centres[draw.integers(0, CELLS, count)] + noise).astype(np.float32)

    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder) / "memory", most_bytes=2 << 30)
        stream, talk, kept_ms, before = archive.begin_stream("made up"), chatter(5), [], 0
        for done in range(0, PASSAGES, TURN):
            turn = []
            for _ in range(TURN):
                tokens, mean = made.packed(rows(MATTER))
                text = f"{next(talk)} Number {draw.integers(0, 40_000)}."
                turn.append(NewPassage(0, TOKENS, text, tokens=tokens, mean=mean))
            began = time.perf_counter()
            archive.add(stream, "user", turn, made.name)
            kept_ms.append(1000 * (time.perf_counter() - began) / TURN)
            if done == PASSAGES // 10:
                before = resident_bytes()
        print(f"{PASSAGES * TOKENS:,} tokens in {PASSAGES:,} passages: {archive.bytes / 1e6:.0f} MB in the file")
        print(f"keeping a passage: {np.median(kept_ms):.2f} ms; resident growth over the last 90 %: "
              f"{(resident_bytes() - before) / 1e6:.1f} MB")  # fmt: skip
        took, cpu = [], []
        for number in range(SEARCHES):
            words = [f"word{number}x{i}" for i in range(ASKED)]
            message = f"{' '.join(words)} market {number}?"
            found = rows(len(words))
            asked = Asked(message, AsFed(_Said(words), found, found))  # type: ignore[arg-type]
            began, cpu_began = time.perf_counter(), time.process_time()
            search(archive, asked, made, 0, 0, 4)
            took.append(1000 * (time.perf_counter() - began))
            cpu.append(1000 * (time.process_time() - cpu_began))
        for name, times in (("elapsed", took), ("processor", cpu)):
            print(f"a search, {name}: {np.median(times):.1f} ms median, {np.quantile(times, 0.95):.1f} ms p95")
        archive.close()


class _Said:
    """Tokens that are a word each."""

    def __init__(self, words: list[str]) -> None:
        self._words = words

    def words(self) -> list[str]:
        """For every token its word."""
        return self._words


if __name__ == "__main__":
    main()
