"""The command `eval recall`: what a model knows of lines inside and beyond the window."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from edgesink.bundles import bundle_of
from edgesink.cli.options import Json, Model, Plot, PrecisionOption, Threads, Window, int_list
from edgesink.cli.output import Bar, on_terminal
from edgesink.errors import BadOption
from edgesink.models import DEFAULT_MODEL
from edgesink.spec import DEFAULT_WINDOW


def recall(
    model: Model = DEFAULT_MODEL,
    distances: Annotated[
        str, typer.Option(help="Distances to ask about, in lines, comma-separated.")
    ] = "1,5,10,20,40,80,120",
    questions: Annotated[int, typer.Option(help="Number of questions per distance.")] = 50,
    sinks: Annotated[int | None, typer.Option(help="Number of attention sinks. Default: the bundle's.")] = None,
    window: Window = DEFAULT_WINDOW,
    precision: PrecisionOption = "int4",
    seed: Annotated[int, typer.Option(help="Random seed for the lines.")] = 0,
    plot: Plot = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure how far back a model can recall (StreamEval).

    Numbered lines stream by, and after every ten lines a question asks about one of the lines before.
    """
    import edgesink
    from edgesink.evaluate.recall import ask, scores
    from edgesink.sample_text import THINGS

    back = int_list(distances)
    if not back or min(back) < 0 or max(back) >= THINGS or questions < 1:
        raise BadOption(
            f"distances {distances!r} and {questions} questions",
            f"distances from 0 to {THINGS - 1} lines and at least 1 question",
        )
    bundle = bundle_of(model, "cache", window, precision, on_terminal())
    stream = edgesink.load(bundle, threads=threads, sinks=sinks)
    with Bar() as bar:
        total = questions * len(back)
        answers = ask(stream, stream.tokenizer, back, questions, seed, lambda done: bar.show("recall", done, total))
    table = scores(answers, stream.window)
    if plot:
        from edgesink.evaluate import plots

        series = {
            "most likely token": ([s.tokens for s in table], [100 * s.exact for s in table]),
            "most likely of 20 names": ([s.tokens for s in table], [100 * s.chosen for s in table]),
        }
        title = f"recall, {stream.sinks} sinks and a window of {stream.window}"
        plots.curves(plot, series, "distance, tokens", "right answers, %", title, log=False)
    if as_json:
        print(json.dumps({"window": stream.window, "scores": [dataclasses.asdict(s) for s in table]}, indent=2))
        return
    print(f"{'lines':>6}  {'tokens':>7}  {'questions':>9}  {'exact':>6}  {'chosen':>6}  window")
    for s in table:
        print(f"{s.lines:>6}  {s.tokens:>7}  {s.questions:>9}  {s.exact:>6.1%}  {s.chosen:>6.1%}  {s.seen}")
