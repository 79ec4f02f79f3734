"""The command `advise`: how many sinks a model needs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from edgesink.bundles import bundle_of
from edgesink.cli.options import Json, Model, PrecisionOption, Texts, Threads, Window, int_list
from edgesink.cli.output import Bar, on_terminal, print_json, say
from edgesink.models import DEFAULT_MODEL
from edgesink.spec import DEFAULT_WINDOW


def advise(
    model: Model = DEFAULT_MODEL,
    text: Texts = [],  # noqa: B006 - typer copies it
    sinks: Annotated[str, typer.Option(help="Numbers of sinks to try, comma-separated.")] = "0,1,2,4,8,16",
    tokens: Annotated[int, typer.Option(min=2, help="Number of tokens of the text to score for each number.")] = 8192,
    window: Window = DEFAULT_WINDOW,
    precision: PrecisionOption = "int4",
    store: Annotated[
        bool, typer.Option("--store/--no-store", help="Make the advised number the bundle's default.")
    ] = True,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure how many attention sinks a model needs.

    The smallest number whose perplexity past the window is within 0.5 % of the best becomes the bundle's default.
    """
    from edgesink.evaluate.advice import advised, store_sinks, try_sinks
    from edgesink.evaluate.scoring import Scorer

    choices = int_list(sinks)
    bundle = bundle_of(model, "cache", window, precision, on_terminal())
    ids = np.fromiter(itertools.islice(_ids(bundle, text), tokens), np.int64)
    with Bar() as bar:
        total = len(choices) * len(ids)
        trials = try_sinks(Scorer(bundle, threads), ids, choices, lambda done: bar.show("advise", done, total))
    best = advised(trials)
    if store:
        store_sinks(bundle, best.sinks)
    if as_json:
        print_json({"trials": [dataclasses.asdict(trial) for trial in trials], "advised": best.sinks, "stored": store})
        return
    print(f"{'sinks':>5}  {'perplexity':>10}")
    for trial in trials:
        print(f"{trial.sinks:>5}  {trial.perplexity:>10.3f}{'  advised' if trial is best else ''}")
    if store:
        say(f"{bundle} now pins {best.sinks} tokens by default")


def _ids(bundle: Path, text: list[Path]) -> Iterator[int]:
    """The text's ids, over and over, behind the model's first token; without a text, lines that need no file."""
    from edgesink.evaluate.texts import Text
    from edgesink.manifest import Manifest
    from edgesink.runtime.tokenizer import Tokenizer
    from edgesink.sample_text import lines

    tokenizer = Tokenizer.of_bundle(bundle)
    yield from Manifest.read(bundle).first_ids
    if text:
        yield from Text(text, tokenizer).endless()
    say("no --text: made-up lines are read, and a real text says more")
    for line in lines():
        yield from tokenizer.encode(line.text)
