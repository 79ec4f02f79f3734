"""How much faster drafts could make an answer at most: what there is in it that was said before.

    python scripts/draft_bounds.py BUNDLE --threads 2

The model answers the requests of `edgesink bench --workload` greedily, without drafts. For each answer it is reckoned
what drafts would have given if it were known how far each comes true: drafts as edgesink makes them, and the best of
all that ever followed the last token. Passes are cut so that the whole takes the least time, and cost what they cost in
this stream with a full window, medians of interleaved rounds. No rule of when to draft can give more.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import edgesink
from edgesink.bench.workloads import REQUESTS, answer_with
from edgesink.runtime.pass_costs import SIZES
from edgesink.runtime.past import Past
from edgesink.runtime.session import Stream

Drafts = Callable[[Sequence[int], int], list[Sequence[int]]]


def main() -> None:
    """Print a line for each kind of answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a folder that `edgesink export` wrote, target onnx")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, default=128, help="of an answer, at most")
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    stream = edgesink.load(asked.bundle, threads=asked.threads)
    costs = pass_costs(stream, asked.rounds)
    print("steps that a pass costs: " + ", ".join(f"{size} tokens {cost:.2f}" for size, cost in costs.items()))
    print(f"{'':10}{'edgesink, foreseen':>24}{'the best of all':>24}")
    for kind, request in REQUESTS.items():
        answer, _ = answer_with(stream, "off", request, asked.tokens)
        before = stream.past.latest().tolist()
        if before[-1] != answer[-1]:  # the last token of an answer need not be fed
            before.append(answer[-1])
        cells = (at_most(before, len(answer), costs, drafts) for drafts in (ours, every))
        print(f"{kind:10}" + "".join(f"{f'{tokens:.2f} a pass, x {speed:.2f}':>24}" for tokens, speed in cells))


def pass_costs(stream: Stream, rounds: int) -> dict[int, float]:
    """Steps of one token that a pass of each size costs which checks a draft, in a full window."""
    random = np.random.default_rng(0)
    stream.prefill(random.integers(100, 1000, stream.capacity).tolist())
    seconds: dict[int, list[float]] = {size: [] for size in (1, *SIZES) if size <= stream.most_rows}
    for _ in range(rounds):
        for size, found in seconds.items():
            began = time.perf_counter()
            stream.feed_all(random.integers(100, 1000, size), size)
            found.append(time.perf_counter() - began)
    return {size: statistics.median(found) / statistics.median(seconds[1]) for size, found in seconds.items()}


def at_most(ids: Sequence[int], answer: int, costs: dict[int, float], drafts: Drafts) -> tuple[float, float]:
    """Tokens a pass, and times as fast as without drafts, for the last `answer` ids at their best."""
    begin, longest = len(ids) - answer, max(costs)
    best = {len(ids): (0.0, 0)}  # from each place to the end: steps that it costs, and passes
    for place in reversed(range(begin, len(ids))):
        true = 1 + max((agreeing(draft, ids[place:]) for draft in drafts(ids[:place], longest - 1)), default=0)
        ways = ((cost, best[min(place + min(size, true), len(ids))]) for size, cost in costs.items())
        best[place] = min((cost + rest, passes + 1) for cost, (rest, passes) in ways)
    steps, passes = best[begin]
    return answer / passes, answer / steps


def agreeing(draft: Sequence[int], ahead: Sequence[int]) -> int:
    """How many ids of a draft come true."""
    count = 0
    while count < min(len(draft), len(ahead)) and draft[count] == ahead[count]:
        count += 1
    return count


def ours(before: Sequence[int], count: int) -> list[Sequence[int]]:
    """What edgesink drafts behind some ids."""
    past = Past(len(before), 0)
    past.append(np.array(before[:-1]))
    guess = past.guess_after(before[-1], count)
    return [guess.ids] if guess else []


def every(before: Sequence[int], count: int) -> list[Sequence[int]]:
    """All that ever followed the last of some ids, over and over where it reaches up to the end."""
    places = [place for place, id_ in enumerate(before[:-1]) if id_ == before[-1]]
    return [np.resize(before[place + 1 :], count).tolist() for place in places]


if __name__ == "__main__":
    main()
