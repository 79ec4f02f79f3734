"""The study's table and figures, from the folders that training left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgesink.evaluate import plots
from sinktoken.measuring import SINKS, Result, mean_and_spread
from sinktoken.settings import Kind
from sinktoken.training import LOOKS

Results = Mapping[Kind, Sequence[Result]]
"""Kind -> the result of each seed."""


def perplexity_table(results: Results, capacity: int) -> str:
    """The paper's table 3, in Markdown: mean and standard deviation over seeds."""
    head = " | ".join(f"{sinks} + {capacity - sinks}" for sinks in SINKS)
    lines = [f"| kind | seeds | {head} | 0 sinks over 4 | 1 sink over 4 |", "|---" * (len(SINKS) + 4) + "|"]
    for kind, seeds in results.items():
        cells = [_cell([one.perplexity[str(sinks)] for one in seeds]) for sinks in SINKS]
        ratios = [_cell([_over_four(one, sinks) for one in seeds], digits=4) for sinks in (0, 1)]
        lines.append(f"| {kind} | {len(seeds)} | {' | '.join([*cells, *ratios])} |")
    return "\n".join(lines)


def attention_table(results: Results) -> str:
    """Where the attention of each layer goes, in Markdown: means over seeds."""
    fields = ("first", "largest", "own", "previous", "nothing")
    lines = [f"| kind | layer | {' | '.join(fields)} |", "|---" * (len(fields) + 2) + "|"]
    for kind, seeds in results.items():
        for layer in range(len(seeds[0].layers)):
            means = [np.mean([getattr(one.layers[layer], field) for one in seeds]) for field in fields]
            lines.append(f"| {kind} | {layer} | {' | '.join(f'{mean:.1%}' for mean in means)} |")
    return "\n".join(lines)


def draw_perplexity(path: Path, results: Results) -> None:
    """Perplexity over that with 4 sinks, by number of sinks: the mean of the seeds, and a dot for each."""
    lines = {
        kind: (SINKS, [mean_and_spread([_over_four(one, sinks) for one in seeds])[0] for sinks in SINKS])
        for kind, seeds in results.items()
    }
    dots = {
        kind: ([s for s in SINKS for _ in seeds], [_over_four(one, s) for s in SINKS for one in seeds])
        for kind, seeds in results.items()
    }
    plots.curves(
        path, lines, "sinks", "perplexity over that with 4 sinks", "exported graph, past the window", False, dots
    )


def draw_emergence(path: Path, folders: Mapping[Kind, Sequence[Path]]) -> None:
    """The share of attention on the first token in training, by the layer that gives it the most: means over seeds."""
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


def _cell(values: Sequence[float], digits: int = 2) -> str:
    mean, spread = mean_and_spread(values)
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"
