"""Answers that repeat what was given: our drafts, and llama.cpp's speculation from n-grams, on the same file.

    python scripts/drafts_beside_llama.py qwen.gguf --server llama-server --threads 2 --rounds 3

The requests of `edgesink bench --workload` go to both as the same ids, for a greedy answer. Without drafts and with
them, and llama.cpp's server in several settings, all take turns in every round. Prints medians of tokens/s from the
first token to the last (llama.cpp's own timings), and the speed with drafts over that without of the same engine.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from llama_server import running

import edgesink
from edgesink.bench.workloads import REQUESTS, answer_with
from edgesink.bundles import bundle_of
from edgesink.runtime.chat import Chat
from edgesink.spec import DEFAULT_SINKS, Drafts

SETTINGS = {
    "llama.cpp": "",
    "llama.cpp, ngram-simple": "--spec-type ngram-simple",
    "llama.cpp, ngram-simple, 3 then 8": "--spec-type ngram-simple --spec-ngram-simple-size-n 3 "
    "--spec-ngram-simple-size-m 8",
    "llama.cpp, ngram-cache": "--spec-type ngram-cache --spec-draft-n-max 8",
}
Answer = Callable[[str], float]


@contextmanager
def llama(command: list[str], ids_of: Callable[[str], list[int]], tokens: int) -> Iterator[Answer]:
    """A server while it is wanted: tokens/s of the answer to a request."""
    with running(command) as client:

        def answer(request: str) -> float:
            asked = {"prompt": ids_of(request), "n_predict": tokens, "temperature": 0, "cache_prompt": False}
            answered = client.post("/completion", json=asked).raise_for_status().json()
            return float(answered["timings"]["predicted_per_second"])

        yield answer


def main() -> None:
    """Run the rounds and print a table in Markdown for each request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--server", default="llama-server")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    bundle = bundle_of(str(options.model), "cache", options.window - DEFAULT_SINKS, "int4", True)
    stream = edgesink.load(bundle, threads=options.threads)

    def ours(drafts: Drafts) -> Answer:
        return lambda request: answer_with(stream, drafts, request, options.tokens)[1]

    def ids_of(request: str) -> list[int]:
        stream.reset()
        return [*stream.manifest.prefix, *Chat(stream).next_turn(request).turn]

    command = [options.server, "-m", str(options.model), "-c", str(options.window), "-t", str(options.threads)]
    with ExitStack() as stack:
        engines: dict[str, Answer] = {"edgesink": ours("off"), "edgesink, drafts": ours("auto")}
        for name, flags in SETTINGS.items():
            given = [*command, "--parallel", "1", *flags.split()]
            engines[name] = stack.enter_context(llama(given, ids_of, options.tokens))
        for workload, request in REQUESTS.items():
            speeds: dict[str, list[float]] = {name: [] for name in engines}
            for _ in range(options.rounds):
                for name, answer in engines.items():
                    speeds[name].append(answer(request))
            print(f"| {workload} | tokens/s | of the same engine without |\n|---|---|---|")
            for name, found in speeds.items():
                own = statistics.median(speeds[name.partition(",")[0]])
                print(f"| {name} | {statistics.median(found):.1f} | x {statistics.median(found) / own:.2f} |")
            print(flush=True)


if __name__ == "__main__":
    main()
