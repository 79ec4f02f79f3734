"""What `bench --workload` and `bench --quick` run: answers with drafts and without, and the figures of this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from edgesink.bundles import bundle_of
from edgesink.cli.output import on_terminal, say
from edgesink.errors import BadOption
from edgesink.manifest import Manifest
from edgesink.spec import DEFAULT_SINKS
from edgesink.targets import Precision
from edgesink.version import __version__

QUICK_WINDOW, QUICK_STEPS, QUICK_PROMPT, QUICK_ANSWER = 1024, 96, 64, 96  # tokens


def time_workloads(
    model: str,
    names: Sequence[str],
    sizes: Sequence[int],
    threads: Sequence[int],
    precision: Precision,
    tokens: int,
    rounds: int,
    as_json: bool,
) -> None:
    """Print a table for every window and number of threads."""
    import edgesink
    from edgesink.bench.report import machine
    from edgesink.bench.workloads import Workload, as_text, run_workloads

    known = get_args(Workload)
    if wrong := [name for name in names if name not in known]:
        raise BadOption(f"--workload {wrong[0]!r}", f"one of {', '.join(known)}")
    chosen: list[Workload] = [name for name in known if name in names]
    data: list[dict[str, Any]] = []
    for size in sizes:
        bundle = bundle_of(model, "cache", size - DEFAULT_SINKS, precision, on_terminal())
        for count in threads:
            stream = edgesink.load(bundle, threads=count)
            figures = run_workloads(stream, chosen, tokens, rounds, say)
            data += [{"window": stream.capacity, "threads": count, **row.as_data()} for row in figures]
            if not as_json:
                print(f"{stream.manifest.name}, {stream.runner}, window {stream.capacity}, {count} threads")
                print(as_text(figures))
    if as_json:
        print(json.dumps({"machine": machine(), "workloads": data}, indent=2))


def time_quickly(model: str, precision: Precision, as_json: bool) -> None:
    """Print one table: what this machine does with the model."""
    import edgesink
    from edgesink.bench.report import machine
    from edgesink.bench.rounds import Contender, Setting, compare
    from edgesink.bench.workloads import REQUESTS, run_workloads
    from edgesink.runtime.cores import threads_to_take

    bundle = bundle_of(model, "cache", QUICK_WINDOW - DEFAULT_SINKS, precision, on_terminal())
    manifest = Manifest.read(bundle)
    window, threads = manifest.stream.capacity, threads_to_take(None) or 1
    setting = Setting(window, threads, DEFAULT_SINKS, min(QUICK_PROMPT, window // 2), QUICK_STEPS)
    ids = np.random.default_rng(0).integers(0, manifest.vocab, window + 2 * QUICK_STEPS)
    (figures,) = compare([Contender("edgesink", "edgesink", {window: bundle})], [setting], ids, 1)
    stream = edgesink.load(bundle, threads=threads)
    answers = run_workloads(stream, list(REQUESTS), QUICK_ANSWER, 1) if stream.most_rows > 1 else []
    if as_json:
        rows = [row.as_data() for row in answers]
        print(json.dumps({"machine": machine(), **figures.as_data(), "workloads": rows}, indent=2))
        return
    here = machine()
    state = (figures.state_bytes or manifest.state_bytes) / 1e6
    lines = {
        "model": f"{manifest.name}, {manifest.weights}",
        "machine": f"{here['processor']}, {threads} threads, {here['date']}",
        "version": f"edgesink {__version__}, {figures.version}",
        "reads": f"{figures.prefill_per_second[1]:.0f} tokens/s of a prompt",
        "answers": f"{figures.tokens_per_second:.1f} tokens/s, {figures.percentile(50):.2f} ms a token "
        f"(99 of 100 within {figures.percentile(99):.2f}), with {window} tokens in memory",
        "starts": f"{figures.first_token_s[0]:.2f} s from nothing to the first token after {setting.prompt}",
        "memory": f"{figures.peak_bytes[0] / 1e6:.0f} MB at most, {state:.1f} MB of it the stream's at any length",
    }
    for row in answers:
        equal = "the same text" if row.same else "another text"
        lines[row.workload] = f"{row.drafted[0]:.1f} tokens/s with drafts, x {row.speedup:.2f}, {equal}"
    if not answers:
        lines["drafts"] = "none: this bundle gives the logits of one token a pass; export the model again"
    width = max(map(len, lines))
    print("\n".join(f"{name:<{width}}  {line}" for name, line in lines.items()))
