"""An endless plain text that needs no file: numbered lines that say whose a thing is.

Owns the lines. `eval recall` asks questions about them, and `verify` feeds them where no text is given.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

NAMES = (
    "Anna", "Bob", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Isaac", "Jack",
    "Kate", "Leo", "Mary", "Nora", "Oscar", "Paul", "Rose", "Sam", "Tom", "Victor",
)  # fmt: skip
ADJECTIVES = (
    "old", "new", "red", "blue", "green", "small", "large", "heavy", "broken", "silver",
    "golden", "wooden", "yellow", "black", "white", "round", "empty", "cheap", "soft", "bright",
)  # fmt: skip
NOUNS = (
    "clock", "table", "guitar", "bottle", "lamp", "hammer", "basket", "mirror", "ladder", "piano",
    "bicycle", "camera", "carpet", "ticket", "blanket", "wallet", "kettle", "statue", "engine", "drum",
)  # fmt: skip
THINGS = len(ADJECTIVES) * len(NOUNS)  # lines before a thing comes again


@dataclass(frozen=True)
class Line:
    """One line of the text."""

    number: int
    thing: str
    owner: str

    @property
    def text(self) -> str:
        """As it goes by."""
        return f"line {self.number}, {self.thing}: {self.owner}\n"

    @property
    def question(self) -> str:
        """What the owner is the answer to."""
        return f"question, {self.thing}:"

    @property
    def answer(self) -> str:
        """What follows the question."""
        return f" {self.owner}\n"


def lines(seed: int = 0) -> Iterator[Line]:
    """Lines without end; a thing comes again, with another owner perhaps, after THINGS lines."""
    draw = random.Random(seed)
    things = [f"{adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS]
    draw.shuffle(things)
    for number, thing in enumerate(itertools.cycle(things), 1):
        yield Line(number, thing, draw.choice(NAMES))
