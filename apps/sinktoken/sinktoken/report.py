"""The study's tables and figures, from the folders that training left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgesink.evaluate import plots
from sinktoken.measuring import SINKS, Result
from sinktoken.settings import Kind
from sinktoken.training import LOOKS

Results = Mapping[Kind, Sequence[Result]]
"""Kind -> the result of each seed."""


def perplexity_table(results: Results, capacity: int) -> str:
    """The paper's table 3, in Markdown: mean and standard deviation over seeds."""
    head = " | ".join(f"{sinks} + {capacity - sinks}" for sinks in SINKS)
    lines = [f"| kind | seeds | {head} | 0 sinks over 4 | 1 sink over 4 |", "|---" * (len(SINKS) + 4) + "|"]
    for kind, seeds in results.items():
        cells = [_cell([one.perplexity[str(sinks)] for one in seeds], 2) for sinks in SINKS]
        ratios = [_cell([_over_four(one, sinks) for one in seeds], 4) for sinks in (0, 1)]
        lines.append(f"| {kind} | {len(seeds)} | {' | '.join([*cells, *ratios])} |")
    return "\n".join(lines)


def attention_table(results: Results) -> str:
    """Where the attention of each layer goes, in Markdown: of the first seed's model."""
    lines = [
        "| kind | layer | first token | itself | the one before | nothing | a head's favourite token |",
        "|---" * 7 + "|",
    ]
    for kind, (model, *_) in results.items():
        for number, layer in enumerate(model.looks.layers):
            cells = [f"{share:.1%}" for share in (layer.first, layer.own, layer.previous, abs(layer.nothing))]
            favourite = f"`{layer.favourite}` {layer.favourite_share:.0%}, of the text {layer.favourite_frequency:.0%}"
            lines.append(f"| {kind} | {number} | {' | '.join([*cells, favourite])} |")
    return "\n".join(lines)


def hiding_table(results: Results) -> str:
    """Perplexity when tokens are hidden, in Markdown: means over seeds."""
    names = ("none", "first", "favourite", "others")
    lines = [
        "| kind | nothing hidden | first token | the strongest favourite | as many others, at random |",
        "|---" * (len(names) + 1) + "|",
    ]
    for kind, seeds in results.items():
        cells = [_cell([one.looks.hidden[name] for one in seeds], 2) for name in names]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_perplexity(path: Path, results: Results) -> None:
    """Perplexity over that with 4 sinks, by number of sinks: the mean of the seeds, and a dot for each."""
    lines = {
        kind: (SINKS, [float(np.mean([_over_four(one, sinks) for one in seeds])) for sinks in SINKS])
        for kind, seeds in results.items()
    }
    dots = {
        kind: ([s for s in SINKS for _ in seeds], [_over_four(one, s) for s in SINKS for one in seeds])
        for kind, seeds in results.items()
    }
    title = "exported graph, past the window"
    plots.curves(path, lines, "sinks", "perplexity over that with 4 sinks", title, False, dots)


def draw_emergence(path: Path, folders: Mapping[Kind, Sequence[Path]]) -> None:
    """The share of attention on the first token in training, in the layer that gives it the most: means over seeds."""
    lines = {}
    for kind, seeds in folders.items():
        looks = [read_looks(folder) for folder in seeds]
        steps = sorted(set.intersection(*(set(one) for one in looks)))
        lines[kind] = steps, [float(np.mean([one[step].mean(1).max() for one in looks])) for step in steps]
    plots.curves(path, lines, "step", "share of attention", "attention on the first token, strongest layer", False)


def read_looks(folder: Path) -> dict[int, np.ndarray]:
    """Step -> shares [L, H]; a run that went on from a save has looked twice at some steps."""
    lines = (json.loads(line) for line in (folder / LOOKS).read_text(encoding="utf-8").splitlines())
    return {line["step"]: np.array(line["shares"]) for line in lines}


def _over_four(result: Result, sinks: int) -> float:
    return result.perplexity[str(sinks)] / result.perplexity["4"]


def _cell(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation over seeds."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return f"{np.mean(values):.{digits}f} ± {spread:.{digits}f}"
