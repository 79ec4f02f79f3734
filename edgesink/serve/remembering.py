"""What one conversation of the server remembers beyond its window, around an answer.

Owns that the stream reads quotations around a message while clients never see one: a conversation is found again
by what was said in it (`history`), and what was quoted stands in its stream alone. What is kept, found and quoted is
`edgesink.memory`'s; where its file is, `memories`'. What tools were asked and answered is neither kept nor looked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from edgesink.memory.memory import Memory, Recall
from edgesink.runtime.session import Stream
from edgesink.runtime.transcript import Turn
from edgesink.runtime.turn_feed import Unfed
from edgesink.serve.history import Exchange
from edgesink.serve.prompts import ChatPrompt
from edgesink.serve.tools import split

log = logging.getLogger("edgesink.serve")


@dataclass(frozen=True)
class Brought:
    """What came back for a message."""

    passages: tuple[dict[str, Any], ...] = ()  # as clients are told
    tokens: int = 0  # that they take in the message's turn
    seconds: float = 0.0  # of looking for them


@dataclass
class _Message:
    """The one that an answer is given to."""

    prompt: ChatPrompt
    rest: tuple[int, ...]  # ids of the answer before it that are not in the stream yet
    fed: Unfed | None = None  # its turn, quotations included


class Remembering:
    """The memory of a conversation.

    Args:
        memory: its own, nobody else's.
        stream: that the conversation is in.
        on_trouble: called once if the memory ends.
    """

    def __init__(self, memory: Memory, stream: Stream, on_trouble: Callable[[], object]) -> None:
        self.memory, self.stream, self._on_trouble = memory, stream, on_trouble
        memory.on_recall = self._came
        self._recall: Recall | None = None
        self._message: _Message | None = None
        self._is_told = False  # of trouble

    # ---- as the memory sees the conversation (`memory.Talk`)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Nothing: what was said before there was a memory, the client sends again."""
        return ()

    def next_turn(self, message: str) -> Unfed:
        """See `memory.Talk`."""
        assert self._message is not None
        prompt = self._message.prompt
        return self._turn(prompt.exchange(prompt.last, message), self._message.rest)

    def text_ids(self, text: str) -> list[int]:
        """See `memory.Talk`."""
        assert self._message is not None
        return self._message.prompt.writer.text_ids(text)

    def _turn(self, exchange: Exchange, rest: tuple[int, ...]) -> Unfed:
        return exchange.unfed(self.stream.position or len(self.stream.manifest.prefix), rest)

    # ---- as an answer does

    @contextmanager
    def quoting(
        self, prompt: ChatPrompt, rest: tuple[int, ...], looks: bool
    ) -> Iterator[tuple[tuple[int, ...], Brought]]:
        """Entered before the last message of a prompt is fed and left behind its answer.

        Args:
            rest: ids of the answer before it that are not in the stream yet.
            looks: whether something may come back.
        Returns:
            the ids of the message's turn as it is to be fed, and what came back.
        """
        self._message, self._recall = _Message(prompt, rest), None
        plain = self._turn(prompt.exchange(prompt.last), rest)
        if not looks or prompt.last in prompt.history.from_tools:
            self._message.fed = plain
            yield plain.turn, Brought()
            return
        said = prompt.history.users[prompt.last]
        began = time.perf_counter()
        with self.memory.around(self, said) as written:
            seconds = time.perf_counter() - began
            self._check()
            fed = plain if written == said else self.next_turn(written)
            self._message.fed = fed
            yield fed.turn, Brought(self._passages(), len(fed.turn) - len(plain.turn), seconds)

    def keep(self, answer: str) -> None:
        """The answer to that message has ended, or was cut: both are remembered."""
        message, self._message = self._message, None
        if message is not None and message.fed is not None:
            self.heard(message.prompt, message.prompt.last, answer, message.fed)

    def heard(self, prompt: ChatPrompt, place: int, answer: str, fed: Unfed) -> None:
        """An exchange has been read: keep what was said in it."""
        text, _ = split(answer, prompt.dialect)
        turns = [Turn("assistant", text, fed.end, self.stream.position)]
        if place not in prompt.history.from_tools:
            turns.insert(0, Turn("user", prompt.history.users[place], fed.turn_start, fed.end))
        self.memory.heard(self, tuple(turns), fed)
        self._check()

    def read(self, prompt: ChatPrompt, place: int, rest: tuple[int, ...]) -> tuple[list[int], Unfed]:
        """The ids of an exchange that is only read, behind the `rest` of an answer, and the turn of its message."""
        exchange = prompt.exchange(place)
        return [*rest, *exchange.ids], self._turn(exchange, rest)

    def take_back(self) -> None:
        """What stands behind the position of the stream was never said."""
        self._message = None
        self.memory.take_back(self.stream.position)
        self._check()

    # ---- what came back

    def _came(self, recall: Recall) -> None:
        self._recall = recall

    def _passages(self) -> tuple[dict[str, Any], ...]:
        """Those that are quoted, the best first."""
        if self._recall is None:
            return ()
        found = [(one.passage, one.way, round(one.score, 3)) for one in self._recall.found]
        wishes = [(passage, "standing", None) for passage in self._recall.wishes]
        return tuple(
            {
                "text": passage.text, "role": passage.role, "said": int(passage.said), "position": passage.first,
                "why": why, "score": score,
            }
            for passage, why, score in (*wishes, *found)
        )  # fmt: skip

    def _check(self) -> None:
        """Say once that the memory has ended."""
        if self.memory.is_off and not self._is_told:
            self._is_told = True
            log.warning("a conversation goes on without its memory: %s", self.memory.trouble)
            self._on_trouble()
