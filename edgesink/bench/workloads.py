"""Answers of three kinds, with drafts and without: how much faster is a model that repeats what it was given?

Owns the requests and the rounds. The model answers greedily, with and without drafts in turns, so that a noisy minute
affects both, and the two answers are compared token by token. Knows no engine but edgesink's own.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgesink.errors import BadOption
from edgesink.spec import Drafts

if TYPE_CHECKING:
    from edgesink.runtime.generate import Token
    from edgesink.runtime.session import Stream

Workload = Literal["prose", "code-edit", "quotes"]

CODE = '''\
"""A shop's list of what it has."""

from dataclasses import dataclass, field


@dataclass
class Item:
    name: str
    price: float
    count: int = 0

    def value(self) -> float:
        return self.price * self.count


@dataclass
class Inventory:
    items: dict[str, Item] = field(default_factory=dict)

    def add(self, name: str, price: float, count: int = 1) -> None:
        if name in self.items:
            self.items[name].count += count
        else:
            self.items[name] = Item(name, price, count)

    def remove(self, name: str, count: int = 1) -> None:
        item = self.items[name]
        if item.count < count:
            raise ValueError(f"only {item.count} of {name}")
        item.count -= count

    def total(self) -> float:
        return sum(item.value() for item in self.items.values())

    def report(self) -> str:
        lines = [f"{item.name}: {item.count} at {item.price:.2f}" for item in self.items.values()]
        return "\\n".join(lines)
'''
MINUTES = """\
Minutes of the harbour council, 3 May. The harbour master said that the old crane must be replaced before winter, since
its brake had failed twice in April. Mrs Lund answered that a new crane would cost 240,000 crowns, and that the town had
set aside no more than 150,000. Mr Aker asked whether a used crane from Tromsberg could be bought instead; the engineer
had seen it, and said that it was twelve years old but had been kept under a roof. The council decided that the
engineer should examine the crane from Tromsberg within two weeks, and that the old crane should carry no more than two
tons until then. Mrs Lund asked that the fishermen be told of this at once. The harbour master promised to put up a
notice.
"""
REQUESTS: dict[Workload, str] = {
    "prose": "Tell a long story about a lighthouse keeper who finds a letter in a bottle.",
    "code-edit": f"Rename the class Item to Article in this file. Give back the whole file.\n\n```python\n{CODE}```",
    "quotes": f"Repeat, sentence by sentence and in the exact words of the text, who said what.\n\n{MINUTES}",
}


@dataclass
class WorkloadFigures:
    """One workload, a list entry per round."""

    workload: Workload
    plain: list[float] = field(default_factory=list)  # tokens/s without drafts
    drafted: list[float] = field(default_factory=list)
    tokens: int = 0  # of the answer
    tokens_per_pass: float = 1.0  # with drafts
    same: bool = True  # the answers are, in every round

    @property
    def speedup(self) -> float:
        """Median with drafts over median without."""
        return float(np.median(self.drafted) / np.median(self.plain))

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {**dataclasses.asdict(self), "speedup": self.speedup}


def run_workloads(
    stream: Stream,
    workloads: Sequence[Workload],
    tokens: int,
    rounds: int,
    report: Callable[[str], None] = lambda line: None,
) -> list[WorkloadFigures]:
    """Let the stream answer each request, `tokens` tokens at most, without drafts and with them in every round.

    BadOption for a bundle that cannot draft.
    """
    if stream.most_rows == 1:
        raise BadOption("--workload for a bundle that cannot draft", "a newer one", "export the model again")
    figures = [WorkloadFigures(workload) for workload in workloads]
    for row in figures:
        for number in range(1, rounds + 1):
            answers = []
            modes: list[tuple[list[float], Drafts]] = [(row.plain, "off"), (row.drafted, "auto")]
            for speeds, drafts in modes:
                ids, speed = answer_with(stream, drafts, REQUESTS[row.workload], tokens)
                answers.append(ids)
                speeds.append(speed)
            counts = stream.drafter.counts
            row.tokens, row.same = len(answers[0]), row.same and answers[0] == answers[1]
            row.tokens_per_pass = counts.tokens / max(1, counts.passes)
            report(
                f"{row.workload}, round {number} of {rounds}: {row.plain[-1]:.1f} and {row.drafted[-1]:.1f} tokens/s"
            )
    return figures


def answer_with(stream: Stream, drafts: Drafts, request: str, tokens: int) -> tuple[list[int], float]:
    """Ids of the answer in a new conversation, and tokens/s from the first to the last."""
    from edgesink.runtime.drafts import Drafter

    stream.drafts, stream.drafter = drafts, Drafter(stream)  # which has learned nothing yet
    return _timed(_answer(stream, request, tokens))


def as_text(figures: Sequence[WorkloadFigures]) -> str:
    """A line for each workload."""
    heads = ("tokens", "plain/s", "drafts/s", "speedup", "per pass", "same text")
    lines = [" " * 10 + "".join(f"{head:>11}" for head in heads)]
    for row in figures:
        cells = (
            f"{row.tokens}", f"{np.median(row.plain):.1f}", f"{np.median(row.drafted):.1f}", f"x {row.speedup:.2f}",
            f"{row.tokens_per_pass:.2f}", "yes" if row.same else "no",
        )  # fmt: skip
        lines.append(f"{row.workload:<10}" + "".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)


def _answer(stream: Stream, request: str, tokens: int) -> Iterator[Token]:
    """The answer in a new conversation, or for a model that is not for one, how it continues."""
    stream.reset()
    if stream.manifest.turns is None:
        return stream.generate(stream.tokenizer.encode(request, special=True), tokens)
    from edgesink.runtime.chat import Chat

    return Chat(stream).answer(request, tokens)


def _timed(answer: Iterator[Token]) -> tuple[list[int], float]:
    """Its ids, and tokens/s from the first to the last."""
    ids, began = [next(answer).id], time.perf_counter()
    ids += [token.id for token in answer]
    if len(ids) < 2:
        raise BadOption("an answer of one token", "two or more", "take another model")
    return ids, (len(ids) - 1) / (time.perf_counter() - began)
