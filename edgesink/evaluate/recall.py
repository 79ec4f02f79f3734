"""StreamEval: what a stream still knows of a line that went by some lines ago.

Owns the task, after the paper's section 4.4 (its code was never released): numbered lines go by, and every ten lines
a question asks about one of them. The paper asks a 7B chat model for a number of many digits; a small model cannot
copy one from any distance, so our lines say whose a thing is and the question ends where the name would follow. Two
scores: `exact`, the most likely token of all begins the right name; `chosen`, it is the most likely of the twenty names
(chance: 1 in 20). Questions stay in the stream with the true answer, whatever the model said. The distances asked
take turns in one stream. Knows tokens only through the tokenizer it is given.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgesink.evaluate.texts import Encoder
from edgesink.sample_text import NAMES, Line, lines

EVERY = 10  # lines between two questions


class Stream(Protocol):
    """What is asked of `edgesink.runtime.session.Stream`."""

    position: int

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Feed ids; float32 [V], the logits after the last."""


@dataclass(frozen=True)
class Answer:
    """One question and how it was answered."""

    lines: int  # how many lines back was asked
    tokens: int  # from the first token of that line to the end of the question
    exact: bool
    chosen: bool


@dataclass(frozen=True)
class Score:
    """Accuracy at one distance."""

    lines: int
    tokens: int  # median distance
    questions: int
    exact: float  # share
    chosen: float  # share
    seen: str  # "inside" the window at every question, "beyond" it at every one, or "edge"


def ask(
    stream: Stream,
    encoder: Encoder,
    distances: Sequence[int],
    questions: int,
    seed: int = 0,
    report: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """Stream lines, and after every tenth ask for the one so many back, each distance in its turn.

    Args:
        stream: at its start.
        encoder: the bundle's tokenizer.
        distances: lines back, below THINGS.
        questions: per distance.
        seed: of the text.
        report: called with the number of answers so far.
    """
    farthest = max(distances)
    recent: dict[int, tuple[Line, int]] = {}  # by number: the line and where it began
    waiting: list[int] = []  # ids not fed yet
    answers: list[Answer] = []
    turns = itertools.cycle(distances)
    shared = _shared(encoder)
    first = {name: encoder.encode(f" {name}\n")[len(shared)] for name in NAMES}
    for line in lines(seed):
        recent[line.number] = line, stream.position + len(waiting)
        recent.pop(line.number - farthest - 1, None)
        waiting += encoder.encode(line.text)
        if line.number % EVERY == 0 and line.number > farthest:
            back = next(turns)
            asked, began = recent[line.number - back]
            waiting += encoder.encode(asked.question)
            logits = stream.prefill([*waiting, *shared])
            right = first[asked.owner]
            exact = int(logits.argmax()) == right
            chosen = max(first.values(), key=lambda token_id: float(logits[token_id])) == right
            answers.append(Answer(back, stream.position - began, exact, chosen))
            waiting = encoder.encode(asked.answer)[len(shared) :]
            report(len(answers))
        if len(answers) == questions * len(distances):
            break
    return answers


def scores(answers: Sequence[Answer], window: int) -> list[Score]:
    """Accuracy by distance; `window` is that of the stream."""
    table = []
    for lines_back in sorted({answer.lines for answer in answers}):
        here = [answer for answer in answers if answer.lines == lines_back]
        distances = sorted(answer.tokens for answer in here)
        seen = "inside" if distances[-1] <= window else "beyond" if distances[0] > window else "edge"
        exact, chosen = (sum(column) / len(here) for column in zip(*((a.exact, a.chosen) for a in here), strict=True))
        table.append(Score(lines_back, distances[len(distances) // 2], len(here), exact, chosen, seen))
    return table


def _shared(encoder: Encoder) -> list[int]:
    """The ids that every answer begins with: none, or a space where the tokenizer keeps it apart."""
    first, *others = (encoder.encode(f" {name}\n") for name in NAMES)
    length = next(i for i in range(len(first)) if any(other[i] != first[i] for other in others))
    return first[:length]
