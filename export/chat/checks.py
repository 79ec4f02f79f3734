"""Turns held against what the template itself writes, text for text and id for id.

Owns the messages that are tried, and what is said of a template that streams otherwise than it renders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import datetime
from typing import Literal

import tokenizers

from edgesink.errors import EdgesinkError
from edgesink.export.chat.template import SYSTEM, NoTurns, Template, conversation, mark
from edgesink.turn_encoder import TurnEncoder
from edgesink.turns import Part, Piece, Script, Trigger, Turns, write

MESSAGES = (
    "Hi",
    "  spaces\naround \n\n",
    "\U0001f600 'quotes' \"and\" {{ braces }}\t<b>&amp;</b> \\n 100% c\u0327a va",
    "\u2003\x1c\u00a0x\u200b ",
    "1. one\n2. two\n\n\n```py\nx = [1]\n```",
)
DATES = (datetime(2026, 3, 5, 7, 8, 9), datetime(2031, 12, 25, 19, 20, 21))


def checked(turns: Turns, template: Template, tokenizer: tokenizers.Tokenizer) -> Turns:
    """The turns with what is left to say of them; NoTurns if the template writes something else."""
    said = _Said(turns, template, tokenizer)
    triggers = tuple(said.triggers())
    if any(not trigger.text.strip(" \n") and len(trigger.text) == 1 for trigger in triggers):
        raise NoTurns("its chat template takes messages apart at white space")
    for message in MESSAGES:
        if not any(trigger.text in message for trigger in triggers):
            for script, system in said.cases(message):
                said.check(script, system, message)
    blank = turns.with_system is None or said.is_written(turns.with_system, "", "Hi")
    turns = dataclasses.replace(turns, blank_system=blank, triggers=triggers)
    return dataclasses.replace(turns, notes=tuple(said.notes(turns)))


class _Said:
    """Compares turns with renderings of the same messages."""

    def __init__(self, turns: Turns, template: Template, tokenizer: tokenizers.Tokenizer) -> None:
        self._turns, self._template, self._tokenizer = turns, template, tokenizer
        self._encoder = TurnEncoder(tokenizer, turns.ids)
        self._names = {piece.id: piece.text for piece in turns.pieces}

    def cases(self, message: str) -> Iterator[tuple[Script, str | None]]:
        """Each script with a system prompt that it takes."""
        if self._turns.without_system:
            yield self._turns.without_system, None
        if self._turns.with_system:
            yield self._turns.with_system, message

    def check(self, script: Script, system: str | None, message: str) -> None:
        """NoTurns if text or ids differ."""
        for number, now in enumerate(DATES, start=1):
            whole, expected, parts = self._both(script, system, message, number, now)
            if self._text(parts) != expected:
                raise NoTurns(f"its chat template writes {message!r} in a way of its own")
            self._check_ids(whole, parts, number > 1)

    def _both(
        self, script: Script, system: str | None, message: str, number: int, now: datetime
    ) -> tuple[str, str, list[Part]]:
        """The whole rendering of so many turns, its last turn, and the same from pieces."""
        self._template.now = now
        whole = self._template.render(conversation(number, system, message))
        expected = whole.rpartition(mark("answer", number - 1))[2] if number > 1 else whole
        return whole, expected, write(script.first if number == 1 else script.later, system, message, now)

    def _text(self, parts: list[Part]) -> str:
        return "".join(self._names[part] if isinstance(part, int) else part for part in parts)

    def _check_ids(self, whole: str, parts: list[Part], goes_on: bool) -> None:
        try:
            ids = self._encoder.encode(parts, goes_on)
        except EdgesinkError as error:
            raise NoTurns(f"its chat template meets {error.found}") from None
        if goes_on and isinstance(parts[0], str):
            return  # the answer and what stands behind it may share a token, which a stream has cut already
        expected: list[int] = self._tokenizer.encode(whole, add_special_tokens=False).ids
        if expected[-len(ids) :] != ids or (not goes_on and len(expected) != len(ids)):
            raise NoTurns("its tokenizer reads a turn alone otherwise than in the conversation")

    def is_written(self, script: Script, system: str | None, message: str) -> bool:
        """First and later turn are as the template writes them."""
        try:
            for number in (1, 2):
                _, expected, parts = self._both(script, system, message, number, DATES[0])
                if self._text(parts) != expected:
                    return False
        except NoTurns:
            return False
        return True

    def triggers(self) -> Iterator[Trigger]:
        """Texts that make the template write a message otherwise, of those that it asks for."""
        roles: tuple[Literal["system", "user"], ...] = ("system", "user")
        for text in sorted(self._template.questions()):
            tried = [f"{text} x", f"x {text}", f"x {text} y", *([text] if text.strip() else [])]
            yield from (Trigger(role, text) for role in roles if not all(self._all_written(role, one) for one in tried))

    def _all_written(self, role: str, text: str) -> bool:
        if role == "system":
            return self._turns.with_system is None or self.is_written(self._turns.with_system, text, "Hi")
        return all(self.is_written(script, system, text) for script, system in self.cases("Hi"))

    def notes(self, turns: Turns) -> Iterator[str]:
        """Where a stream differs from the template, for people."""
        if turns.refusal:
            what = "with a" if turns.with_system is None else "without a"
            yield f"no conversation {what} system prompt: {turns.refusal}"
        if not any(piece.kind == "token" for piece in turns.pieces):
            yield "its template has no control tokens, so text in a message can look like a turn"
        for trigger in turns.triggers:
            yield f"a message of the {trigger.role} with {trigger.text!r} is refused, as its template changes it"
        if turns.with_system and turns.with_system.repeats_system:
            yield "its template writes the system prompt into the newest message, so every message repeats it"
        elif turns.with_system and _in_message(turns.with_system.first):
            yield "its template writes the system prompt into the first message: to pin it pins how that message begins"
        if not self._renders_history_alike():
            yield "its template writes earlier answers in another way; a stream keeps them as they were generated"

    def _renders_history_alike(self) -> bool:
        """The whole rendering is the turns put together, white space aside, and nothing of an answer is dropped."""
        script, system = next(self.cases(SYSTEM))
        self._template.now = DATES[0]
        answer = "<think>\nWell.\n</think>\n\nSo."
        messages = conversation(3, system)
        for message in messages:
            if message["role"] == "assistant":
                message["content"] = answer
        text = ""
        for number in (1, 2, 3):
            pieces = script.first if number == 1 else script.later
            text += self._text(write(pieces, system, mark("user", number), DATES[0])) + answer * (number < 3)
        try:
            return self._template.render(messages).split() == text.split()
        except NoTurns:
            return False


def _in_message(pieces: tuple[Piece, ...]) -> bool:
    """No control token stands between the system prompt and the user's message."""
    kinds = [piece.kind for piece in pieces]
    return "token" not in kinds[kinds.index("system") : kinds.index("user")]
