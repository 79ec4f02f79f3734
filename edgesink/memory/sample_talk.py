"""Invented talk to calibrate and to measure a memory with: notes with questions, small talk, and days of chatter.

Owns the texts. Each note is asked for in its own words and in other words, which share hardly a word that matters with
it. Texts are in three parts, of which none is in another: what a model is calibrated with, what rules and weights were
chosen with ("develop"), and what nothing was chosen with ("evaluate"): that is what is measured with.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

Part = Literal["calibrate", "develop", "evaluate"]
_PART: dict[str, Part] = {"c": "calibrate", "e": "develop", "t": "evaluate"}

PEOPLE = (
    "Marta", "Hugo", "Elif", "Dario", "Wanda", "Pavel", "Noor", "Greta", "Ivo", "Selma", "Kofi", "Ruth", "Bela",
    "Tanja", "Omar", "Vera", "Klaus", "Yuki", "Sven", "Lucia",
)  # fmt: skip
PLACES = (
    "the market", "the park", "the library", "the station", "the office", "the kitchen", "the harbour", "the cinema",
    "the hospital", "the garden", "the supermarket", "the gym", "the river", "the church", "the airport", "the school",
)  # fmt: skip
THINGS = (
    "a newspaper", "some apples", "a jacket", "a long letter", "the old radio", "two tickets", "a wooden chair",
    "some soup", "a map", "the blue bag", "a birthday card", "a loaf of bread", "the printer", "a novel",
    "some flowers", "the vacuum cleaner", "a puzzle", "a bottle of wine", "the keyboard", "a pair of gloves",
)  # fmt: skip
FEELINGS = ("tired", "happy", "a little sad", "curious", "hungry", "nervous", "relieved", "bored", "proud", "calm")
WEATHER = ("rain", "snow", "fog", "wind", "sunshine", "thunder", "heat", "frost")
CHATTER = (
    "{who} was at {where} today and came home {how}.",
    "I bought {what} near {where}, and it cost more than I thought.",
    "There was a lot of {sky} this morning, so I stayed at {where} for an hour.",
    "{who} and {other} talked about {what} for the whole evening.",
    "I could not find {what}, and in the end it was at {where}.",
    "At {where} I met {who}, who was {how} because of the {sky}.",
    "We had planned to go to {where}, but {who} was too {how}.",
    "{who} asked me to bring {what} the next time.",
    "After lunch I cleaned {what} and then felt {how}.",
    "The way to {where} was slow because of the {sky}.",
    "{who} sent me a photo of {what}, taken at {where}.",
    "I spent half the day waiting for {who} at {where}.",
    "{other} says that {who} has been {how} since the {sky} began.",
    "I repaired {what} with the help of {other}.",
    "Nothing much happened, there was {sky}, and I read for a while at {where}.",
    "{who} forgot {what} at {where} again, which made {other} laugh.",
)


@dataclass(frozen=True)
class Note:
    """Something that was told, and how it may be asked for."""

    part: Part
    text: str
    own: str  # a question in the note's own words
    other: str  # the same in other words
    answers: tuple[str, ...]  # any of them in an answer makes it right


def has_answer(answers: Sequence[str], text: str) -> bool:
    """Whether a text has one of some answers; those of one or two characters only where a word begins."""
    said = f" {text.lower()} "
    return any(one.lower() in said if len(one) > 2 else f" {one.lower()}" in said for one in answers)


@cache
def notes(part: Part) -> tuple[Note, ...]:
    """The notes for one purpose: 70 to calibrate, 64 that weights and rules were chosen with, 64 to evaluate."""
    rows = _rows("notes.tsv")
    return tuple(
        Note(_PART[kind], text, own, other, tuple(answers.split("|")))
        for kind, text, own, other, answers in rows
        if _PART[kind] == part
    )


@dataclass(frozen=True)
class Change:
    """Something that was told twice, differently."""

    old: str
    new: str
    question: str
    answer: str
    stale: str  # what was right before; "-" where the new telling says it as well


@cache
def changes() -> tuple[Change, ...]:
    """Facts that change."""
    return tuple(Change(*fields) for kind, *fields in _rows("changes.tsv") if kind == "update")


@cache
def never_said() -> tuple[str, ...]:
    """Questions that sound like the others, about what nobody told."""
    return tuple(fields[2] for kind, *fields in _rows("changes.tsv") if kind == "never")


@cache
def small_talk(part: Literal["develop", "evaluate"] = "evaluate") -> tuple[str, ...]:
    """A hundred messages to which nothing that was told belongs."""
    return tuple(_lines(f"small_talk_{part}.txt"))


@cache
def statements() -> tuple[str, ...]:
    """Messages that tell something, and ask for nothing."""
    return tuple(_lines("statements_evaluate.txt"))


@cache
def negations() -> tuple[tuple[str, str], ...]:
    """Something that is not so, and the question whether it is: the answer is no."""
    return tuple((text, question) for text, question in _rows("negations.tsv"))


@cache
def replies() -> tuple[tuple[str, str], ...]:
    """Messages to which nothing that was told belongs, each with a good answer."""
    return tuple((message, answer) for message, answer in _rows("replies.tsv"))


@cache
def asides(kind: Literal["small", "ask", "told"]) -> tuple[str, ...]:
    """To calibrate with: messages to which nothing that was told belongs, requests for something that was, tellings."""
    return tuple(text for kind_, text in _rows("asides.tsv") if kind_ == kind)


def chatter(seed: int = 0) -> Iterator[str]:
    """Sentences of invented days without end, none of which answers a note's question."""
    draw = random.Random(seed)
    while True:
        who, other = draw.sample(PEOPLE, 2)
        form = draw.choice(CHATTER)
        yield form.format(
            who=who, other=other, where=draw.choice(PLACES), what=draw.choice(THINGS), how=draw.choice(FEELINGS),
            sky=draw.choice(WEATHER),
        )  # fmt: skip


def _rows(name: str) -> list[list[str]]:
    return [line.split("\t") for line in _lines(name)]


def _lines(name: str) -> list[str]:
    return (files("edgesink.memory") / name).read_text(encoding="utf-8").splitlines()
