"""How long a pass over k tokens takes, for k = 1, 2, 3, …: what drafts and prompts cost.

    python scripts/time_chunks.py BUNDLE                      # as many threads as `edgesink.load` takes
    python scripts/time_chunks.py BUNDLE --threads 1 --rounds 15 --counts 1 2 4 8 --kernels AVX2

The stream is filled to its capacity first. Every round times each k once, so that a noisy minute meets all of them; a
line has the median of the rounds. Tokens beyond the bundle's chunk take more than one pass. On a machine that is busy
with other work, `--threads 1 --processor-time` tells more than the clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import edgesink
from edgesink.runtime.kernels import choose_kernels
from edgesink.runtime.session import Stream

COUNTS = [1, 2, 3, 4, 8, 16, 32, 64, 128]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a pass over k tokens, compared with one token.")
    parser.add_argument("bundle", type=Path, help="a folder that `edgesink export` wrote, target onnx")
    parser.add_argument("--threads", type=int, help="threads (default: a core each)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds (default: 9)")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="numbers of tokens; 1 is always timed")
    parser.add_argument("--kernels", help="other kernels than the fastest, as AVX2")
    parser.add_argument("--processor-time", action="store_true", help="time the processor, not the clock")
    asked = parser.parse_args()
    if asked.kernels:
        choose_kernels(asked.kernels)
    stream = edgesink.load(asked.bundle, threads=asked.threads)
    counts = sorted({1, *asked.counts})
    seconds = time_rounds(
        stream, counts, asked.rounds, time.process_time if asked.processor_time else time.perf_counter
    )
    print(f"{asked.bundle.name}: capacity {stream.capacity}, medians of {asked.rounds} rounds")
    print("tokens        ms  ms a token  of one token's time")
    for count in counts:
        print(f"{count:6d} {1e3 * seconds[count]:9.2f} {1e3 * seconds[count] / count:11.2f} "
              f"{seconds[count] / seconds[1]:20.2f}")  # fmt: skip


def time_rounds(stream: Stream, counts: list[int], rounds: int, clock: Callable[[], float]) -> dict[int, float]:
    """The median seconds of a pass over each number of tokens, in a stream that is full."""
    random = np.random.default_rng(0)
    stream.prefill(random.integers(100, 1000, stream.capacity).tolist())
    found: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            ids = random.integers(100, 1000, count).tolist()
            start = clock()
            stream.prefill(ids)
            found[count].append(clock() - start)
    return {count: statistics.median(times) for count, times in found.items()}


if __name__ == "__main__":
    main()
