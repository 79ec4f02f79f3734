"""From a message to the ids that must be fed for an answer to it, wherever the conversation was stopped before.

Owns what of an answer or a turn is still to be fed (`Unfed`) and the encoding of turns, each message once. What a turn
is made of is the manifest's (`edgesink.turns`), and its ids are `TurnEncoder`'s. Knows no stream: positions are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from edgesink.manifest import Manifest
from edgesink.turn_encoder import TurnEncoder
from edgesink.turns import Piece, Script, Turns, around_message, write

if TYPE_CHECKING:
    from edgesink.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Unfed:
    """Ids that belong in the stream and may not all be there: of an answer or a turn that was cut short."""

    start: int  # position of the stream where they begin
    answer: tuple[int, ...] = ()  # what is left of the last answer
    turn: tuple[int, ...] = ()  # behind it
    before: int = 0  # ids of the turn before the message
    closing: tuple[int, ...] = ()  # what goes behind the message
    opening: int = 0  # of the ids before the message, those at the end that open the user's turn

    @property
    def turn_start(self) -> int:
        """Position of the turn's first id."""
        return self.start + len(self.answer)

    @property
    def message_start(self) -> int:
        """Position of the message's first id."""
        return self.turn_start + self.before

    @property
    def end(self) -> int:
        """Position behind all of it: where an answer begins."""
        return self.turn_start + len(self.turn)

    @property
    def message_size(self) -> int:
        """Ids of the message."""
        return len(self.turn) - self.before - len(self.closing)

    def rest(self, position: int) -> list[int]:
        """What must be fed before another turn: a message that was read in part stays so, and its turn is closed."""
        fed = max(0, position - self.start)
        if fed <= len(self.answer):
            return list(self.answer[fed:])
        fed -= len(self.answer)
        if fed > len(self.turn) - len(self.closing):
            return list(self.turn[fed:])
        return [*self.turn[fed : self.before], *self.closing]


class TurnFeed:
    """What the turns of one conversation are as ids.

    Raises:
        BadOption: the model takes no system prompt, or demands one.
    """

    def __init__(self, manifest: Manifest, turns: Turns, tokenizer: Tokenizer, system: str | None) -> None:
        self._manifest, self._turns, self.system = manifest, turns, system
        self._script: Script = turns.script(system)
        self._encoder = TurnEncoder(tokenizer.inner, turns.ids)
        self._opening = _opening(self._script, turns.end)
        self._last: tuple[tuple[str, int, list[int]], Unfed] | None = None

    @property
    def repeats_system(self) -> bool:
        """Whether every message carries the system prompt, and not only the first."""
        return self._script.repeats_system

    @property
    def head_size(self) -> int:
        """Ids before the first message, the model's sink token included."""
        before, _ = around_message(self._script.first)
        return len(self._manifest.prefix) + len(self._encode(before))

    def check_message(self, message: str) -> None:
        """BadOption for an empty message, or one that the model's turns cannot hold."""
        self._turns.check_message(message)

    def text_ids(self, text: str) -> list[int]:
        """Ids of text that stands behind other text; a control token that is spelled in it is ordinary text."""
        return self._encoder.encode([text], goes_on=True)

    def next(self, unfed: Unfed, message: str, position: int) -> Unfed:
        """What is to be fed at `position` to get an answer to a message; BadOption if it cannot be encoded."""
        rest = unfed.rest(position)
        asked = message, position, rest
        if self._last is None or self._last[0] != asked:
            self._last = asked, self._with_turn(rest, message, position)
        return self._last[1]

    def _with_turn(self, rest: list[int], message: str, position: int) -> Unfed:
        is_first = position == 0 and not rest
        pieces = self._script.first if is_first else self._script.later
        before, behind = around_message(pieces)
        return Unfed(
            position or len(self._manifest.prefix),  # which a new stream feeds first
            tuple(rest),
            tuple(self._encode(pieces, message, goes_on=not is_first)),
            len(self._encode(before, goes_on=not is_first)),
            tuple(self._encode(behind, goes_on=True)),
            len(self._encode(self._opening, goes_on=True)),
        )

    def _encode(self, pieces: Sequence[Piece], message: str = "", goes_on: bool = False) -> list[int]:
        return self._encoder.encode(write(pieces, self.system, message, datetime.now()), goes_on)


def _opening(script: Script, end: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """The pieces that open a user's turn, the first and later ones alike; () where they cannot be told apart."""
    first, later = (around_message(pieces)[0] for pieces in (script.first, script.later))
    opening = later[len(end) :] if later[: len(end)] == end else ()
    return opening if opening and first[-len(opening) :] == opening else ()
