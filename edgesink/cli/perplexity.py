"""The command `eval ppl`: perplexity of a long text, dense, window, sinks and recomputation compared."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgesink.bundles import bundle_of, checkpoint_of, longer_bundle
from edgesink.cli.options import (
    DeviceOption,
    Json,
    Model,
    Plot,
    PrecisionOption,
    Texts,
    Threads,
    Window,
    int_list,
    require_texts,
    split_list,
)
from edgesink.cli.output import Bar, on_terminal, say
from edgesink.models import DEFAULT_MODEL
from edgesink.spec import DEFAULT_WINDOW

if TYPE_CHECKING:
    from edgesink.evaluate.perplexity import Curve, Sampling


def ppl(
    model: Model = DEFAULT_MODEL,
    text: Texts = [],  # noqa: B006 - typer copies it
    modes: Annotated[
        str,
        typer.Option(
            help="Ways of reading to compare, comma-separated: dense (full KV cache), window (no sinks), sinks, "
            "recompute (the window is recomputed for each token)."
        ),
    ] = "window,sinks",
    sinks: Annotated[
        str, typer.Option(help="Numbers of attention sinks to try, comma-separated. 0 is the mode window.")
    ] = "4",
    positions: Annotated[
        str,
        typer.Option(
            help="Distances at which sinks are seen, comma-separated: cache, original. "
            "original cannot be chosen for a bundle made with cache."
        ),
    ] = "cache",
    window: Window = DEFAULT_WINDOW,
    precision: PrecisionOption = "int4",
    tokens: Annotated[
        int | None, typer.Option(help="Number of tokens to read; a shorter text repeats. Default: the whole text once.")
    ] = None,
    skip: Annotated[int, typer.Option(min=0, help="Number of tokens to leave out of the text after the sinks.")] = 0,
    every: Annotated[
        int | None, typer.Option(help="Number of tokens per point of the curve. Default: a fiftieth of all.")
    ] = None,
    stride: Annotated[
        int, typer.Option(help="For recompute: score the last --run tokens of every stride of this many.")
    ] = 100,
    run: Annotated[
        int,
        typer.Option(
            help="For recompute: number of consecutive tokens that share one recomputed window, "
            "which is then longer by --run - 1."
        ),
    ] = 1,
    dense_limit: Annotated[
        int, typer.Option(help="For dense: number of tokens to stop at, since its memory grows.")
    ] = 16384,
    progress: Annotated[
        Path | None, typer.Option(help="Progress file: resume from it if it exists, and save to it every minute.")
    ] = None,
    plot: Plot = None,
    threads: Threads = None,
    device: DeviceOption = "cpu",
    as_json: Json = False,
) -> None:
    """Measure perplexity on a text longer than the window.

    Compares attention sinks with a plain sliding window, recomputation and a full KV cache.
    """
    from edgesink.evaluate.measurement import Measurement, planned_curves
    from edgesink.evaluate.perplexity import Sampling
    from edgesink.evaluate.progress import Progress
    from edgesink.evaluate.texts import Text
    from edgesink.manifest import Manifest
    from edgesink.runtime.tokenizer import Tokenizer
    from edgesink.verify.held_model import held_model

    planned = planned_curves(split_list(modes), int_list(sinks), split_list(positions))
    # asked for at once: the other modes take hours, and a bundle has no checkpoint
    checkpoint = checkpoint_of(model, say) if any(one.mode == "dense" for one in planned) else None
    bundles = {
        place: bundle_of(model, place, window, precision, on_terminal())
        for place in sorted({p.positions for p in planned})
    }
    first = next(iter(bundles.values()))
    if any(one.mode == "recompute" for one in planned):
        bundles["recompute"] = first if run == 1 else longer_bundle(model, window + run - 1, precision, on_terminal())
    manifest = Manifest.read(first)
    source = Text(require_texts(text), Tokenizer.of_bundle(first), manifest.first_ids, skip, keep=max(int_list(sinks)))
    total = tokens or source.count()
    measurement = Measurement(
        bundles=bundles,
        text=source,
        sampling=Sampling(total, stride, manifest.stream.capacity, run),
        every=every or max(1, total // 50),
        dense_limit=dense_limit,
        dense_model=partial(held_model, checkpoint, manifest.precision, device) if checkpoint else None,
        threads=threads,
        device=device,
    )
    identity = {
        "bundles": {place: Manifest.read(bundle).fingerprint for place, bundle in sorted(bundles.items())},
        "texts": [file.name for file in source.files], "tokens": total, "every": measurement.every, "stride": stride,
        "run": run, "skip": skip,
    }  # fmt: skip
    saved = Progress(progress, identity)
    with Bar() as bar:
        curves = measurement.run(planned, saved, lambda curve: bar.show(curve.label, curve.position, total))
    _show_perplexity(curves, measurement.sampling, plot, as_json)


def _show_perplexity(curves: list[Curve], sampling: Sampling, plot: Path | None, as_json: bool) -> None:
    from edgesink.evaluate.table import as_data, as_table, draw

    if plot:
        draw(plot, curves, sampling.capacity)
    print(json.dumps(as_data(curves, sampling), indent=2) if as_json else as_table(curves, sampling))
