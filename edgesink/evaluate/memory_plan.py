"""What is told in a conversation that a memory is measured with, and what is asked at its end.

Owns two plans. One tells facts at given distances from the end, in windows; the other is a diary of 200 days. Facts are
lines (whose a thing is, after the paper's StreamEval), notes asked in their own words and in others, things that were
told anew, and things that are not so. How they are told and scored is `memory`'s.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from typing import Literal, get_args

from edgesink.memory.sample_talk import Note, Part, changes, chatter, negations, never_said, notes
from edgesink.sample_text import lines

Kind = Literal["lines", "own words", "other words", "changed", "negated", "never said"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DAYS, QUARTERS = 200, 4  # of the diary
FIRST_DAY = date(2025, 3, 3)


@dataclass(frozen=True)
class Question:
    """What is asked at the end."""

    kind: Kind
    back: int  # how far back the fact was told, in windows or days, at least; 0: nowhere
    text: str
    evidence: str  # what was told; "" if nothing was
    answers: tuple[str, ...]  # one of them must be in the answer
    stale: str = ""  # must not be


@dataclass(frozen=True)
class Told:
    """Messages of one distance, and what is asked about them at the end."""

    windows: int  # from their end to that of the conversation, at least
    messages: list[str]
    questions: list[Question]
    is_filled: bool = True  # with chatter between the messages


def distances_plan(distances: Sequence[int], each: int, part: Part = "evaluate") -> list[Told]:
    """What is told how many windows before the end, the farthest first, and the questions.

    Args:
        distances: in windows.
        each: lines, and notes, at each distance; there are 64 notes, and they are not told twice.
        part: which notes; what the method is chosen with is "develop".
    """
    told, made = [], iter(notes(part))
    facts, changed = lines(seed=7), changes()
    far = sorted(distances, reverse=True)
    for at, windows in enumerate(far):
        messages, questions = [], []
        for line in islice(facts, each):
            text = f"The {line.thing} belongs to {line.owner}."
            messages.append(text)
            questions.append(Question("lines", windows, f"Who does the {line.thing} belong to?", text, (line.owner,)))
        for note in islice(made, each):
            messages.append(note.text)
            questions.append(Question("own words", windows, note.own, note.text, note.answers))
            questions.append(Question("other words", windows, note.other, note.text, note.answers))
        for number, change in enumerate(changed):
            if number % len(far) == at:  # told here, and anew behind the notes
                questions.append(
                    Question("changed", windows, change.question, change.new, (change.answer,), change.stale)
                )
                messages.insert(0, change.old)
                messages.append(change.new)
        told.append(Told(windows, messages, questions))
    told[-1].questions.extend(_never_said())
    return told


def diary_plan(seed: int = 5) -> list[Told]:
    """A diary of 200 days, a message a day, in four quarters; a fact on most days, among what happened besides.

    What changes is told in the first 100 days and anew in the last. Questions say how many days ago their quarter
    ended or, of what changed, that of its last telling.
    """
    draw, talk = random.Random(seed), chatter(seed=41)
    facts: dict[int, list[str]] = {day: [] for day in range(DAYS)}
    asked: dict[int, list[Question]] = {quarter: [] for quarter in range(QUARTERS)}
    once: list[Note | tuple[str, str]] = [*notes("evaluate"), *negations()]
    days = draw.sample(range(DAYS), len(once))
    for one, day in zip(once, days, strict=True):
        back = _back(day)
        if isinstance(one, tuple):
            text, asks = one
            questions = [Question("negated", back, asks, text, ("no",))]
        else:
            text = one.text
            questions = [
                Question("own words", back, one.own, text, one.answers),
                Question("other words", back, one.other, text, one.answers),
            ]
        facts[day].append(text)
        asked[day * QUARTERS // DAYS].extend(questions)
    for change in changes():
        before, after = draw.randrange(DAYS // 2), draw.randrange(DAYS // 2, DAYS)
        facts[before].append(change.old)
        facts[after].append(change.new)
        anew = Question("changed", _back(after), change.question, change.new, (change.answer,), change.stale)
        asked[after * QUARTERS // DAYS].append(anew)
    messages = [_day(day, facts[day], [next(talk), next(talk)], draw) for day in range(DAYS)]
    size = DAYS // QUARTERS
    told = [Told(0, messages[q * size : (q + 1) * size], asked[q], is_filled=False) for q in range(QUARTERS)]
    told[-1].questions.extend(_never_said())
    return told


def _back(day: int) -> int:
    """Days from the end of a day's quarter to the end, or one if there are none."""
    size = DAYS // QUARTERS
    return max(1, DAYS - (day // size + 1) * size)


def _day(day: int, facts: Sequence[str], other: Sequence[str], draw: random.Random) -> str:
    """What the diary says of a day."""
    when = FIRST_DAY + timedelta(day)
    said = [*other, *facts]
    draw.shuffle(said)
    return f"{when:%A}, {when.day} {when:%B}. {' '.join(said)}"


def _never_said() -> list[Question]:
    return [Question("never said", 0, text, "", ()) for text in never_said()]
