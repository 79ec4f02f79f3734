"""A model's turns as data: what stands around the messages of a conversation.

Owns the words of it (piece, script, turns), what they must be of one another, and how pieces and messages become a
line of control tokens and text. Knows no chat template: the exporter cuts one into pieces (`edgesink.export.chat`);
and no tokenizer (`turn_encoder`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from edgesink.errors import AGAIN, BadBundle, BadOption

Kind = Literal["token", "text", "system", "user", "date"]
Trim = Literal["none", "left", "right", "both"]
Part = int | str  # a control token's id, or text between two of them

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip

_DIRECTIVES: Mapping[str, Callable[[datetime], str]] = {
    "%": lambda now: "%",
    "a": lambda now: DAYS[now.weekday()][:3],
    "A": lambda now: DAYS[now.weekday()],
    "b": lambda now: MONTHS[now.month - 1][:3],
    "B": lambda now: MONTHS[now.month - 1],
    "d": lambda now: f"{now.day:02}",
    "-d": lambda now: f"{now.day}",
    "H": lambda now: f"{now.hour:02}",
    "I": lambda now: f"{(now.hour + 11) % 12 + 1:02}",
    "m": lambda now: f"{now.month:02}",
    "-m": lambda now: f"{now.month}",
    "M": lambda now: f"{now.minute:02}",
    "p": lambda now: "AM" if now.hour < 12 else "PM",
    "S": lambda now: f"{now.second:02}",
    "y": lambda now: f"{now.year % 100:02}",
    "Y": lambda now: f"{now.year:04}",
}
"""Those of `strftime` that a template may use, in English whatever the machine's language is."""


@dataclass(frozen=True)
class Piece:
    """A part of a turn."""

    kind: Kind  # "system" and "user" are places for what was said; "date" is for today's
    text: str = ""  # the token as the vocabulary spells it, the ordinary text, or the date's format
    id: int | None = None  # of a token
    trim: Trim = "none"  # on which side the template strips what was said

    def __post_init__(self) -> None:
        is_said = self.kind in ("system", "user")
        if (self.id is None) == (self.kind == "token") or (self.text == "") != is_said:
            has = f"{'no' if self.id is None else 'an'} id and {'a' if self.text else 'no'} text"
            raise BadBundle(f"a piece of kind {self.kind} with {has}", "what its kind has", AGAIN)
        if self.trim != "none" and not is_said:
            raise BadBundle(f"a piece of kind {self.kind} that is trimmed", "a place for a message", AGAIN)
        if any("\ud800" <= character <= "\udfff" for character in self.text):
            raise BadBundle(f"a piece with the text {self.text!r}", "whole characters", AGAIN)
        if self.kind == "date" and (unknown := unknown_directive(self.text)):
            raise BadBundle(f"a date with {unknown}", "another format", "update edgesink")


@dataclass(frozen=True)
class Script:
    """The turns of a conversation."""

    first: tuple[Piece, ...]  # from the beginning of the conversation to where the first answer starts
    later: tuple[Piece, ...]  # from the end of an answer's text to where the next answer starts

    def __post_init__(self) -> None:
        for name, pieces in (("first", self.first), ("later", self.later)):
            if all(piece.kind != "user" for piece in pieces):
                raise BadBundle(f"a {name} turn without the user's message", "a place for it", AGAIN)

    @property
    def repeats_system(self) -> bool:
        """Every turn has the system prompt."""
        return any(piece.kind == "system" for piece in self.later)


@dataclass(frozen=True)
class Trigger:
    """A text in a message that the template writes in a way of its own, or takes for an order."""

    role: Literal["system", "user"]
    text: str

    def __post_init__(self) -> None:
        if not self.text:
            raise BadBundle("a trigger without text", "some", AGAIN)


@dataclass(frozen=True)
class Turns:
    """How a model's conversations are written."""

    without_system: Script | None  # None: a system prompt is demanded
    with_system: Script | None  # None: no system prompt is taken
    refusal: str  # why one of the two is None; empty if neither is
    blank_system: bool  # an empty system prompt is written as any other
    end: tuple[Piece, ...]  # what the template writes behind the last answer
    controls: tuple[int, ...]  # added tokens that no message becomes, besides those marked special in tokenizer.json
    triggers: tuple[Trigger, ...]  # a message with one is refused
    notes: tuple[str, ...]  # for people: where a stream differs from the template, and what is lost

    def __post_init__(self) -> None:
        if self.without_system is None and self.with_system is None:
            raise BadBundle("turns neither with nor without a system prompt", "one of the two", AGAIN)
        if (None in (self.without_system, self.with_system)) != bool(self.refusal):
            raise BadBundle(f"turns with the refusal {self.refusal!r}", "one where a script is missing", AGAIN)
        plain = self.without_system.first + self.without_system.later if self.without_system else ()
        if any(piece.kind == "system" for piece in plain):
            raise BadBundle("a system prompt in turns without one", "none", AGAIN)
        if self.with_system and all(piece.kind != "system" for piece in self.with_system.first):
            raise BadBundle("turns that leave the system prompt out", "a place for it", AGAIN)

    @property
    def pieces(self) -> Iterator[Piece]:
        """All of them."""
        for script in (self.without_system, self.with_system):
            if script:
                yield from script.first + script.later
        yield from self.end

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens in it, each once, in order."""
        return tuple(sorted({piece.id for piece in self.pieces if piece.id is not None}.union(self.controls)))

    @property
    def end_id(self) -> int | None:
        """The control token that the template writes behind an answer, at most white space before it."""
        for piece in self.end:
            if piece.kind == "token":
                return piece.id
            if piece.kind != "text" or piece.text.strip():
                break
        return None

    def script(self, system: str | None) -> Script:
        """The turns of a conversation with this system prompt; BadOption where the template has none such."""
        script = self.without_system if system is None else self.with_system
        if script is None and system is None:
            raise BadOption("no system prompt", f"one ({self.refusal})", "give one")
        if script is None:
            raise BadOption("a system prompt", f"none ({self.refusal})", "put it into the first message")
        if system is not None:
            if not system.strip() and not self.blank_system:
                raise BadOption("an empty system prompt", "some text, or none")
            self._check_triggers("system", system)
        return script

    def check_message(self, text: str) -> None:
        """BadOption if a user's message cannot be written as it is."""
        if not text.strip():
            raise BadOption("an empty message", "some text")
        self._check_triggers("user", text)

    def _check_triggers(self, role: Kind, said: str) -> None:
        for trigger in self.triggers:
            if trigger.role == role and trigger.text in said:
                expected = "none: the model's chat template gives it a meaning of its own"
                raise BadOption(f"{trigger.text!r} in a message of the {role}", expected)


def write(pieces: Sequence[Piece], system: str | None, user: str, now: datetime) -> list[Part]:
    """The pieces with what was said in their places: control tokens, and the text between two of them in one part."""
    return joined(piece.id if piece.id is not None else _text_of(piece, system or "", user, now) for piece in pieces)


def joined(parts: Iterable[Part]) -> list[Part]:
    """The same with the text between two control tokens in one part, and no empty one."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        elif part != "":
            found.append(part)
    return found


def _text_of(piece: Piece, system: str, user: str, now: datetime) -> str:
    if piece.kind == "date":
        return format_date(piece.text, now)
    if piece.kind == "text":
        return piece.text
    said = user if piece.kind == "user" else system
    if piece.trim in ("left", "both"):
        said = said.lstrip()
    return said.rstrip() if piece.trim in ("right", "both") else said


def around_message(pieces: Sequence[Piece]) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """What stands before the first and behind the last place of the user's message."""
    places = [i for i, piece in enumerate(pieces) if piece.kind == "user"]
    return tuple(pieces[: places[0]]), tuple(pieces[places[-1] + 1 :])


def format_date(form: str, now: datetime) -> str:
    """`now.strftime(form)` with the directives that are known here."""
    return re.sub(r"%(-?.)", lambda match: _DIRECTIVES[match[1]](now), form)


def unknown_directive(form: str) -> str | None:
    """The first directive of a date's format that is not known here, as "%j"."""
    found = re.findall(r"%(-?.?)", form, re.DOTALL)
    return next((f"%{name}" for name in found if name not in _DIRECTIVES), None)
