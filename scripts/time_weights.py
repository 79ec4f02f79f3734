"""What it costs to leave weights in their file, and what it saves.

    python scripts/time_weights.py BUNDLE --tokens 100 --rounds 3

For weights that are read, mapped, and as the default has it, in turns, each in a process of its own with one thread,
the medians of: milliseconds of processor time a token, behind 72 others; megabytes of memory of its own, and of the
file that are mapped in huge pages (0 where the system does not tell); seconds from nothing imported to the logits of
64 tokens. The file is in the system's cache, so nothing waits for the disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

WAYS = {"read": False, "mapped": True, "default": None}


def measure(bundle: Path, way: str, tokens: int) -> list[float]:
    """The four figures of this process, which has imported nothing of edgesink yet."""
    began = time.perf_counter()
    import edgesink

    stream = edgesink.load(bundle, threads=1, mapped=WAYS[way])
    stream.feed(range(100, 164))
    first = time.perf_counter() - began
    stream.feed(range(200, 208))
    used = time.process_time()
    for token in range(tokens):
        stream.feed([300 + token])
    used = 1000 * (time.process_time() - used) / tokens
    status = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in status[1:]}
    return [used, sizes["Anonymous"], sizes.get("FilePmdMapped", 0.0), first]


def main() -> None:
    """Run the rounds and print a table in Markdown; a child, which has --way, prints its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.bundle, options.way, options.tokens)))
        return
    figures: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way, found in figures.items():
            command = [sys.executable, __file__, options.bundle, "--tokens", str(options.tokens), "--way", way]
            found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print("| weights | ms a token | MB of its own | MB of the file in huge pages | first token, s |")
    print("|---|---|---|---|---|")
    for way, found in figures.items():
        used, own, huge, first = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {way} | {used:.2f} | {own:.0f} | {huge:.0f} | {first:.2f} |")


if __name__ == "__main__":
    main()
