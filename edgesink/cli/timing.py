"""The commands that time: `eval latency`, `eval endurance`."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from edgesink.bundles import bundle_of, checkpoint_of
from edgesink.cli.options import Json, Model, Plot, PrecisionOption, Texts, Threads, Window, int_list, require_texts
from edgesink.cli.output import Bar, on_terminal, say
from edgesink.models import DEFAULT_MODEL
from edgesink.spec import DEFAULT_SINKS, DEFAULT_WINDOW, Device
from edgesink.targets import Precision

if TYPE_CHECKING:
    from edgesink.evaluate.latency import WindowTimes
    from edgesink.evaluate.texts import Text
    from edgesink.runtime.session import Stream

TORCH_HEADS = ("torch ms", "recompute ms", "ratio")


def latency(
    model: Model = DEFAULT_MODEL,
    text: Texts = [],  # noqa: B006 - typer copies it
    windows: Annotated[
        str, typer.Option(help="Window sizes to time, sinks included, comma-separated.")
    ] = "256,512,1024,2048,4096",
    precision: PrecisionOption = "int4",
    steps: Annotated[int, typer.Option(help="Number of decode steps to time at each window size.")] = 50,
    repeats: Annotated[int, typer.Option(help="Number of times to recompute the whole window at each size.")] = 3,
    torch: Annotated[bool, typer.Option("--torch", help="Also time PyTorch, in float32.")] = False,
    device: Annotated[
        Device, typer.Option(help="With cuda, PyTorch alone is timed, on the GPU and in bfloat16.")
    ] = "cpu",
    threads: Threads = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Compare time per token: streaming and recomputing the window.

    Measured at several window sizes, as in figure 10 of the paper.
    """
    sizes = int_list(windows)
    if device == "cuda":
        timings = _on_gpu(model, sizes, steps, repeats)
    else:
        timings = _on_cpu(model, text, sizes, precision, steps, repeats, torch, threads)
    if plot:
        from edgesink.evaluate import plots

        series = {
            "streaming": (sizes, [t.stream_ms or t.torch_stream_ms or 0.0 for t in timings]),
            "recompute": (sizes, [t.recompute_ms or t.torch_recompute_ms or 0.0 for t in timings]),
        }
        plots.curves(plot, series, "window, tokens", "ms per token", "streaming and recomputing the window")
    if as_json:
        print(json.dumps([{**dataclasses.asdict(t), "ratio": t.ratio, "torch_ratio": t.torch_ratio} for t in timings]))
        return
    heads = ("stream ms", "recompute ms", "ratio") if device == "cpu" else ()
    print(" window" + "".join(f"{head:>14}" for head in (*heads, *(TORCH_HEADS if torch or device == "cuda" else ()))))
    for t in timings:
        columns = [t.stream_ms, t.recompute_ms, t.ratio, t.torch_stream_ms, t.torch_recompute_ms, t.torch_ratio]
        print(f"{t.window:>7}" + "".join(f"{x:>14.2f}" for x in columns if x is not None))


def _on_cpu(
    model: str,
    text: list[Path],
    sizes: Sequence[int],
    precision: Precision,
    steps: int,
    repeats: int,
    torch: bool,
    threads: int | None,
) -> list[WindowTimes]:
    """The exported graph at each size, and PyTorch in float32 with the same weights if it is asked for."""
    import edgesink
    from edgesink.evaluate.latency import time_torch, time_window
    from edgesink.verify.held_model import held_model

    reference = held_model(checkpoint_of(model, say), precision) if torch else None
    timings = []
    for size in sizes:
        bundle = bundle_of(model, "cache", size - DEFAULT_SINKS, precision, on_terminal())
        stream = edgesink.load(bundle, threads=threads)
        ids = np.fromiter(_text(stream, text).endless(), np.int64, size + steps)
        times = time_window(stream, ids, steps, repeats)
        timings.append(times if reference is None else time_torch(times, reference, ids, steps, repeats))
    return timings


def _on_gpu(model: str, sizes: Sequence[int], steps: int, repeats: int) -> list[WindowTimes]:
    """PyTorch alone in bfloat16, as the paper timed it; which ids are fed does not matter to the clock."""
    import torch

    from edgesink.evaluate.latency import WindowTimes, time_torch
    from edgesink.reference import load_model

    reference = load_model(checkpoint_of(model, say), "cuda", torch.bfloat16)
    ids = np.random.default_rng(0).integers(0, reference.config.vocab_size, max(sizes) + steps)
    return [time_torch(WindowTimes(size), reference, ids, steps, repeats) for size in sizes]


def endurance(
    model: Model = DEFAULT_MODEL,
    text: Texts = [],  # noqa: B006 - typer copies it
    tokens: Annotated[int, typer.Option(help="Number of tokens to decode, one at a time.")] = 100_000,
    every: Annotated[int, typer.Option(help="Number of tokens per row of the table.")] = 10_000,
    window: Window = DEFAULT_WINDOW,
    precision: PrecisionOption = "int4",
    progress: Annotated[
        Path | None, typer.Option(help="Progress file: resume from it if it exists, and save to it after every row.")
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Decode for a long time, reporting latency and memory."""
    import edgesink
    from edgesink.evaluate.latency import Endurance

    bundle = bundle_of(model, "cache", window, precision, on_terminal())
    run = Endurance(edgesink.load(bundle, threads=threads), every, progress)
    ids = itertools.islice(_text(run.stream, text).endless(), run.stream.position, None)
    with Bar() as bar:
        stretches = run.run(ids, tokens, lambda done: bar.show("endurance", done, tokens))
    if as_json:
        print(json.dumps([dataclasses.asdict(s) for s in stretches]))
        return
    print(f"{'tokens':>8}  {'p50 ms':>7}  {'p90 ms':>7}  {'p99 ms':>7}  {'resident MB':>11}")
    for s in stretches:
        print(f"{s.tokens:>8}  {s.p50_ms:>7.2f}  {s.p90_ms:>7.2f}  {s.p99_ms:>7.2f}  {s.resident_bytes / 1e6:>11.1f}")


def _text(stream: Stream, files: list[Path]) -> Text:
    from edgesink.evaluate.texts import Text

    return Text(require_texts(files), stream.tokenizer)
