"""A conversation without end: each turn is fed once, and nothing is written twice.

Owns where a conversation stands: before its first turn, in a turn whose reading was cut short, in an answer, or behind
one. What a turn is made of is the manifest's (`edgesink.turns`), and its ids are `TurnEncoder`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edgesink.errors import BadBundle, BadOption
from edgesink.runtime.generate import Token, generate
from edgesink.runtime.sampling import SamplingSpec
from edgesink.runtime.session import Stream
from edgesink.turn_encoder import TurnEncoder
from edgesink.turns import Piece, Script, Turns, around_message, write


@dataclass(frozen=True)
class Unfed:
    """Ids that belong in the stream and may not all be there: of an answer or a turn that was cut short."""

    start: int  # position of the stream where they begin
    answer: tuple[int, ...] = ()  # what is left of the last answer
    turn: tuple[int, ...] = ()  # behind it
    before: int = 0  # ids of the turn before the message
    closing: tuple[int, ...] = ()  # what goes behind the message

    def rest(self, position: int) -> list[int]:
        """What must be fed before another turn: a message that was read in part stays so, and its turn is closed."""
        fed = max(0, position - self.start)
        if fed <= len(self.answer):
            return list(self.answer[fed:])
        fed -= len(self.answer)
        if fed > len(self.turn) - len(self.closing):
            return list(self.turn[fed:])
        return [*self.turn[fed : self.before], *self.closing]


class Chat:
    """A conversation on a stream.

    Attributes:
        stream: where the conversation is; its `evicted` says how much has been forgotten.
        sampling: how answers are chosen; may be replaced between turns.
    Raises:
        BadBundle: the model is not for conversations.
        BadOption: it takes no system prompt, or demands one.
    """

    def __init__(
        self, stream: Stream, system: str | None = None, sampling: SamplingSpec | None = None, pin_system: bool = False
    ) -> None:
        self.stream = stream
        self.sampling = sampling or SamplingSpec()
        turns = stream.manifest.turns
        if turns is None:
            why = stream.manifest.no_turns
            raise BadBundle(f"{stream.manifest.name} ({why})", "a chat model", "use `edgesink generate`")
        self._turns: Turns = turns
        self._script: Script = turns.script(system)
        self._system = system
        self._encoder = TurnEncoder(stream.tokenizer.inner, turns.ids)
        self._unfed = Unfed(stream.position)
        if pin_system:
            self.pin_system()

    def pin_system(self) -> None:
        """Start anew with the whole system prompt as sinks; BadOption if the bundle cannot pin that many."""
        if self.repeats_system:
            raise BadOption("a pinned system prompt", "none: this model's turns repeat it in every message")
        before, _ = around_message(self._script.first)
        self.stream.reset(sinks=len(self.stream.manifest.prefix) + len(self._encode(before)))
        self._unfed = Unfed(0)

    def reset(self) -> None:
        """Start a new conversation with the same system prompt and sinks."""
        self.stream.reset()
        self._unfed = Unfed(0)

    def save(self, path: Path) -> None:
        """Write the conversation to a session file: what the model still remembers, not a transcript."""
        if rest := self._unfed.rest(self.stream.position):
            self.stream.feed(rest)
        self._unfed = Unfed(self.stream.position)
        self.stream.save(path)

    def restore(self, path: Path) -> None:
        """Go on from a session file; BadSession leaves the conversation as it was."""
        self.stream.restore(path)
        self._unfed = Unfed(self.stream.position)

    @property
    def repeats_system(self) -> bool:
        """Whether every message carries the system prompt, and not only the first."""
        return self._script.repeats_system

    @property
    def begins_with_system(self) -> bool:
        """Whether a new conversation begins with a system prompt that no later message carries."""
        return self._system is not None and not self.repeats_system

    def forgotten(self, message: str) -> tuple[int, int]:
        """The tokens of a message that would be fed next, and how many of its first no answer to it will see.

        Raises:
            BadOption: as `answer`.
        """
        self._turns.check_message(message)
        unfed = self._with_turn(message)
        begin = unfed.start + len(unfed.answer) + unfed.before
        end = unfed.start + len(unfed.answer) + len(unfed.turn)
        size = len(unfed.turn) - unfed.before - len(unfed.closing)
        return size, min(size, max(0, end - self.stream.window - max(begin, self.stream.sinks)))

    def answer(self, message: str, max_new_tokens: int | None = None) -> Iterator[Token]:
        """Feed a message and yield the answer. Stop asking, and the next message goes on from what was said.

        Raises:
            BadOption: an empty message, or one that the model's turns cannot hold; the conversation is as it was.
        """
        self._turns.check_message(message)
        self._unfed = unfed = self._with_turn(message)
        for token in generate(self.stream, (*unfed.answer, *unfed.turn), self.sampling, max_new_tokens):
            is_end = token.id in self.stream.manifest.eos_ids
            self._unfed = Unfed(self.stream.position, () if is_end else (token.id,))
            yield token

    def _with_turn(self, message: str) -> Unfed:
        """What is to be fed to get an answer."""
        position = self.stream.position
        rest = self._unfed.rest(position)
        is_first = position == 0 and not rest
        pieces = self._script.first if is_first else self._script.later
        before, behind = around_message(pieces)
        return Unfed(
            position or len(self.stream.manifest.prefix),  # which a new stream feeds first
            tuple(rest),
            tuple(self._encode(pieces, message, goes_on=not is_first)),
            len(self._encode(before, goes_on=not is_first)),
            tuple(self._encode(behind, goes_on=True)),
        )

    def _encode(self, pieces: Sequence[Piece], message: str = "", goes_on: bool = False) -> list[int]:
        return self._encoder.encode(write(pieces, self._system, message, datetime.now()), goes_on)
