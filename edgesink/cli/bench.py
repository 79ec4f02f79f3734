"""The command `bench`: what to run beside what."""

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


def bench(
    model: Model = DEFAULT_MODEL,
    text: Texts = [],  # noqa: B006 - typer copies it
    windows: Annotated[str, typer.Option(help="Tokens seen, sinks included.")] = "256,1024",
    threads: Annotated[str, typer.Option(help="For matrix products.")] = "2",
    precision: PrecisionOption = "int4",
    rounds: Annotated[int, typer.Option(min=1, help="Times that each runs, in turns.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Single tokens timed a round, at least.")] = 256,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens that the first token waits for.")] = 64,
    chunks: Annotated[str, typer.Option(help="Tokens fed at once to fill the window; 0: as many as fit.")] = "0",
    perplexity: Annotated[
        int, typer.Option(min=0, help="Score so many tokens of --text, one by one; 0 scores none.")
    ] = PERPLEXITY_TOKENS,
    against: Annotated[str, typer.Option(help="Of llama.cpp, onnxruntime-genai, openvino-genai.")] = "",
    quants: Annotated[str, typer.Option(help="llama.cpp: its GGUF in these too, as Q8_0,Q4_0.")] = "",
    evictions: Annotated[str, typer.Option(help="llama.cpp: half of the window at a time, or one token.")] = "half,one",
    peer_model: Annotated[
        list[str], typer.Option(help="NAME=PATH: a GGUF; for onnxruntime-genai a folder of its builder.")
    ] = [],  # noqa: B006
    peer_python: Annotated[list[str], typer.Option(help="NAME=PYTHON, where the peer is installed.")] = [],  # noqa: B006
    plain: Annotated[bool, typer.Option("--plain", help="Ours without kernels of our own beside it.")] = False,
    positions: Annotated[str, typer.Option(help="Time steps at these places of one stream, as 2000,100000.")] = "",
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Speed and memory with the ring full, beside other engines where they are installed."""
    from edgesink.bench.peers import PeerOptions, contenders
    from edgesink.bench.report import Report
    from edgesink.bench.rounds import Contender, Setting, compare
    from edgesink.manifest import Manifest

    sizes, counts = int_list(windows), int_list(threads)
    if not sizes or not counts or min(counts) < 1 or min(sizes) <= max(prompt, 2 * DEFAULT_SINKS):
        raise BadOption(f"windows {windows!r}, threads {threads!r}", f"1 thread or more, windows above {prompt}")
    if text and 0 < perplexity <= max(sizes):
        raise BadOption(f"--perplexity {perplexity}", f"more tokens than the window's {max(sizes)}, or 0")
    options = PeerOptions(
        split_list(against), _named(peer_model), _named(peer_python), split_list(quants), split_list(evictions)
    )
    peers = contenders(options, sizes, lambda: checkpoint_of(model, say))
    bundles = {size: bundle_of(model, "cache", size - DEFAULT_SINKS, precision, on_terminal()) for size in sizes}
    manifests = {size: Manifest.read(bundle) for size, bundle in bundles.items()}
    _check_windows(manifests)
    ours = Contender(f"edgesink {precision}", "edgesink", bundles, chunks=tuple(int_list(chunks)))
    ours_plain = dataclasses.replace(ours, label=f"{ours.label}, plain", options={"provider": "plain"})
    settings = [Setting(size, count, DEFAULT_SINKS, prompt, steps) for size in sizes for count in counts]
    ids = _ids(bundles[sizes[0]], text)
    some = np.fromiter(itertools.islice(ids, max(max(sizes) + 2 * steps, perplexity + 1)), np.int64)
    report = Report(
        compare(
            [ours, *([ours_plain] if plain else []), *peers], settings, some, rounds, perplexity if text else 0, say
        ),
        manifests,
        _places(bundles[sizes[0]], ids, int_list(positions), counts[-1], steps, rounds) if positions else [],
    )
    if plot:
        _draw(plot, report.figures)
    print(json.dumps(report.as_data(), indent=2) if as_json else report.as_text())


def _check_windows(manifests: dict[int, Manifest]) -> None:
    """BadOption where a bundle's window is another than the one it is to be timed at."""
    for size, manifest in manifests.items():
        capacity = manifest.stream.capacity
        if capacity != size:
            raise BadOption(f"--windows {size} of a bundle that sees {capacity} tokens", f"--windows {capacity}")


def _places(
    bundle: Path, ids: Iterator[int], positions: list[int], threads: int, steps: int, rounds: int
) -> list[Place]:
    import edgesink
    from edgesink.bench.far import time_positions

    blocks = (np.fromiter(itertools.islice(ids, 4096), np.int64) for _ in itertools.count())
    with Bar() as bar:
        stream = edgesink.load(bundle, threads=threads)
        return time_positions(
            stream, blocks, sorted(positions), steps, rounds, lambda done: bar.show("position", done, max(positions))
        )


def _ids(bundle: Path, text: list[Path]) -> Iterator[int]:
    """The text's ids, over and over; without a text, ids drawn evenly."""
    from edgesink.evaluate.texts import Text
    from edgesink.manifest import Manifest
    from edgesink.runtime.tokenizer import Tokenizer

    if text:
        yield from Text(text, Tokenizer.of_bundle(bundle)).endless()
    random, vocab = np.random.default_rng(0), Manifest.read(bundle).model.vocab
    while True:
        yield from random.integers(0, vocab, 1024).tolist()


def _named(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise BadOption(repr(pair), "NAME=VALUE, as llama.cpp=/usr/bin/python3")
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
    title = f"decoding with the window full, {most} threads"
    plots.curves(path, lines, "window, tokens", "tokens/s", title, log=False)
