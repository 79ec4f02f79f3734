"""The command `bench`: speed and memory, compared with other engines."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from edgesink.bundles import bundle_of, checkpoint_of
from edgesink.cli.options import Json, Model, Plot, PrecisionOption, Texts, int_list, split_list
from edgesink.cli.output import Bar, on_terminal, say
from edgesink.errors import BadOption
from edgesink.models import DEFAULT_MODEL
from edgesink.spec import DEFAULT_SINKS

if TYPE_CHECKING:
    from edgesink.bench.far import Place
    from edgesink.bench.rounds import Figures
    from edgesink.manifest import Manifest

PERPLEXITY_TOKENS = 4096
QUICK_OPTIONS = {"model", "quick", "precision", "as_json"}
WORKLOAD_OPTIONS = {
    "model", "workload", "windows", "threads", "precision", "steps", "rounds", "as_json",
    "prompt",  # no window may be smaller
}  # fmt: skip


def bench(
    context: typer.Context,
    model: Model = DEFAULT_MODEL,
    text: Texts = [],  # noqa: B006 - typer copies it
    windows: Annotated[str, typer.Option(help="Window sizes to run, sinks included, comma-separated.")] = "256,1024",
    threads: Annotated[str, typer.Option(help="Numbers of CPU threads to run with, comma-separated.")] = "2",
    precision: PrecisionOption = "int4",
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds; each round runs every engine once.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Minimum number of decode steps to time per round.")] = 256,
    prompt: Annotated[int, typer.Option(min=1, help="Prompt length in tokens for the time to first token.")] = 64,
    chunks: Annotated[
        str, typer.Option(help="Prefill sizes in tokens, comma-separated; 0 feeds the whole window at once.")
    ] = "0",
    perplexity: Annotated[
        int, typer.Option(min=0, help="Number of tokens of --text to measure perplexity on. 0 measures none.")
    ] = PERPLEXITY_TOKENS,
    against: Annotated[
        str,
        typer.Option(help="Engines to compare with, comma-separated: llama.cpp, onnxruntime-genai, openvino-genai."),
    ] = "",
    quants: Annotated[
        str, typer.Option(help="For llama.cpp: further quantisations of its GGUF to run, for example Q8_0,Q4_0.")
    ] = "",
    evictions: Annotated[
        str,
        typer.Option(
            help="For llama.cpp: tokens to evict from a full window at a time, comma-separated: half (of it), one."
        ),
    ] = "half,one",
    peer_model: Annotated[
        list[str],
        typer.Option(
            help="Model for an engine, as NAME=PATH: a .gguf file, or for onnxruntime-genai a folder made by its "
            "model builder. Repeat the option for more engines."
        ),
    ] = [],  # noqa: B006
    peer_python: Annotated[
        list[str],
        typer.Option(
            help="Python interpreter with an engine installed, as NAME=PYTHON. Default: this one. "
            "Repeat the option for more engines."
        ),
    ] = [],  # noqa: B006
    plain: Annotated[bool, typer.Option("--plain", help="Also time edgesink without its C kernels.")] = False,
    depths: Annotated[
        str, typer.Option(help="Also time decode steps this many tokens into a stream, for example 2000,100000.")
    ] = "",
    positions: Annotated[str, typer.Option(hidden=True, help="Former name of --depths.")] = "",
    workload: Annotated[
        str,
        typer.Option(
            help="Time answers to these requests instead, with drafts and without, comma-separated: prose, "
            "code-edit, quotes. Each answer has at most --steps tokens. Only --windows, --threads, --precision, "
            "--rounds and --json go with it."
        ),
    ] = "",
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Measure the most important figures in less than two minutes. Only --precision and --json go with it.",
        ),
    ] = False,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Measure speed and memory with a full window.

    Other engines are timed in turns with edgesink where they are installed.
    """
    from edgesink.cli.workloads import time_quickly, time_workloads

    if quick:
        _refuse_others(context, "--quick", QUICK_OPTIONS)
        time_quickly(model, precision, as_json)
        return
    from edgesink.bench.peers import PeerOptions, contenders
    from edgesink.bench.report import BenchReport
    from edgesink.bench.rounds import Contender, Setting, compare
    from edgesink.manifest import Manifest

    if workload:
        _refuse_others(context, "--workload", WORKLOAD_OPTIONS)
    sizes, counts = int_list(windows), int_list(threads)
    if not sizes or not counts or min(counts) < 1 or min(sizes) <= max(prompt, 2 * DEFAULT_SINKS):
        raise BadOption(
            f"windows {windows!r}, threads {threads!r}",
            f"at least 1 thread, and windows larger than {max(prompt, 2 * DEFAULT_SINKS)} tokens",
        )
    if text and 0 < perplexity <= max(sizes):
        raise BadOption(f"--perplexity {perplexity}", f"more tokens than the window of {max(sizes)}, or 0")
    if workload:
        time_workloads(model, split_list(workload), sizes, counts, precision, steps, rounds, as_json)
        return
    options = PeerOptions(
        split_list(against), _named(peer_model), _named(peer_python), split_list(quants), split_list(evictions)
    )
    peers = contenders(options, sizes, lambda: checkpoint_of(model, say))
    bundles = {size: bundle_of(model, "cache", size - DEFAULT_SINKS, precision, on_terminal()) for size in sizes}
    manifests = {size: Manifest.read(bundle) for size, bundle in bundles.items()}
    _check_windows(manifests)
    ours = Contender(f"edgesink {precision}", "edgesink", bundles, chunks=tuple(int_list(chunks)))
    ours_plain = dataclasses.replace(ours, label=f"{ours.label}, plain", options={"kernels": False})
    settings = [Setting(size, count, DEFAULT_SINKS, prompt, steps) for size in sizes for count in counts]
    ids = _ids(bundles[sizes[0]], text)
    enough = np.fromiter(itertools.islice(ids, max(max(sizes) + 2 * steps, perplexity + 1)), np.int64)
    report = BenchReport(
        compare(
            [ours, *([ours_plain] if plain else []), *peers], settings, enough, rounds, perplexity if text else 0, say
        ),
        manifests,
        _places(bundles[sizes[0]], ids, int_list(depths or positions), counts[-1], steps, rounds),
    )
    if plot:
        _draw(plot, report.figures)
    print(json.dumps(report.as_data(), indent=2) if as_json else report.as_text())


def _refuse_others(context: typer.Context, mode: str, used: set[str]) -> None:
    """BadOption for what was given and would not be used."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in used and source is not None and source.name == "COMMANDLINE":
            raise BadOption(f"{parameter.opts[0]} with {mode}, which does not use it", "one of the two")


def _check_windows(manifests: dict[int, Manifest]) -> None:
    """BadOption where a bundle's window is not the one that it should be timed at."""
    for size, manifest in manifests.items():
        capacity = manifest.stream.capacity
        if capacity != size:
            raise BadOption(
                f"--windows {size} for a bundle with a capacity of {capacity} tokens", f"--windows {capacity}"
            )


def _places(
    bundle: Path, ids: Iterator[int], positions: list[int], threads: int, steps: int, rounds: int
) -> list[Place]:
    if not positions:
        return []
    import edgesink
    from edgesink.bench.far import time_positions

    blocks = (np.fromiter(itertools.islice(ids, 4096), np.int64) for _ in itertools.count())
    with Bar() as bar:
        stream = edgesink.load(bundle, threads=threads)
        return time_positions(
            stream, blocks, sorted(positions), steps, rounds, lambda done: bar.show("position", done, max(positions))
        )


def _ids(bundle: Path, text: list[Path]) -> Iterator[int]:
    """The text's ids, endlessly; without a text, uniformly random ids."""
    from edgesink.evaluate.texts import Text
    from edgesink.manifest import Manifest
    from edgesink.runtime.tokenizer import Tokenizer

    if text:
        yield from Text(text, Tokenizer.of_bundle(bundle)).endless()
    random, vocab = np.random.default_rng(0), Manifest.read(bundle).vocab
    while True:
        yield from random.integers(0, vocab, 1024).tolist()


def _named(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise BadOption(repr(pair), "NAME=VALUE, for example llama.cpp=/usr/bin/python3")
    return dict(pair.split("=", 1) for pair in pairs)


def _draw(path: Path, figures: Sequence[Figures]) -> None:
    from edgesink.evaluate import plots

    most = max(row.setting.threads for row in figures)
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for row in figures:
        if row.setting.threads == most:
            windows, speeds = lines.setdefault(row.label, ([], []))
            windows.append(row.setting.window)
            speeds.append(row.tokens_per_second)
    title = f"decoding with a full window, {most} threads"
    plots.curves(path, lines, "window, tokens", "tokens/s", title, log=False)
