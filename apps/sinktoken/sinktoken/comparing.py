"""Models of several studies side by side: did a sink emerge, and is it missed when it is evicted?

Owns their table and figure. Measures nothing: see `measuring`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgesink.errors import BadOption
from edgesink.evaluate import plots
from sinktoken.measuring import Result
from sinktoken.report import read_looks
from sinktoken.training import FINISHED

LAST_LOSSES = 5  # entries of the log that are averaged: one is a noisy number


@dataclass(frozen=True)
class Trained:
    """What the training of a model left, and what was measured of it."""

    looks: dict[int, np.ndarray]  # step -> shares of attention on the first token [L, H]
    loss: float  # in nats a token, at the end
    result: Result

    @classmethod
    def read(cls, folder: Path, result: Result) -> Trained:
        """Of the model in `folder`, whose training has ended."""
        log = json.loads((folder / "loss.json").read_text(encoding="utf-8"))
        losses = [entry["loss"] for entry in log if "loss" in entry]
        return cls(read_looks(folder), float(np.mean([float(loss) for loss in losses[-LAST_LOSSES:]])), result)

    @property
    def steps(self) -> int:
        """That it was trained for."""
        return max(self.looks)


def named_folders(entries: Sequence[str]) -> dict[str, Path]:
    """NAME=FOLDER entries in their order; BadOption for anything else, a name twice, or a folder without a model."""
    pairs = [entry.partition("=") for entry in entries]
    if wrong := [entry for entry, (name, _, folder) in zip(entries, pairs, strict=True) if not name or not folder]:
        raise BadOption(f"the model {wrong[0]!r}", "NAME=FOLDER, a name for the table and the model's folder")
    names = [name for name, _, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadOption(f"two models {twice[0]!r}", "a name of its own for each")
    folders = {name: Path(folder) for name, _, folder in pairs}
    if untrained := [folder for folder in folders.values() if not (folder / FINISHED).is_file()]:
        raise BadOption(f"no trained model in {untrained[0]}", "a folder such as STUDY/vanilla-0, its training ended")
    return folders


def settings_table(models: Mapping[str, Trained]) -> str:
    """In Markdown, a row a model."""
    lines = [
        "| setting | layers x heads | steps | training loss | first token: strongest layer | strongest head "
        "| perplexity, 4 sinks | 0 sinks over 4 | 1 sink over 4 |",
        "|---" * 9 + "|",
    ]
    for name, model in models.items():
        last, perplexity = model.looks[model.steps], model.result.perplexity
        cells = [
            name, f"{last.shape[0]} x {last.shape[1]}", f"{model.steps}", f"{model.loss:.2f}",
            f"{last.mean(1).max():.1%}", f"{last.max():.1%}", f"{perplexity['4']:.2f}",
            f"{perplexity['0'] / perplexity['4']:.4f}", f"{perplexity['1'] / perplexity['4']:.4f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_settings(path: Path, models: Mapping[str, Trained]) -> None:
    """The share of attention on the first token in training, of the head that gives it the most at that step."""
    lines = {
        name: (sorted(model.looks), [float(model.looks[step].max()) for step in sorted(model.looks)])
        for name, model in models.items()
    }
    plots.curves(path, lines, "step", "share of attention", "attention on the first token, strongest head", False)
