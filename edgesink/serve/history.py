"""What a request says was said: a system prompt, messages of the user and the answers between them, as plain text.

Owns the key of a conversation, a hash of all that was said up to an answer, and the ids of what is still to be read.
Knows no JSON: roles and tools have become text before (`messages`, `tools`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from edgesink.manifest import Manifest
from edgesink.runtime.tokenizer import Tokenizer
from edgesink.runtime.turn_feed import Unfed
from edgesink.turn_encoder import TurnEncoder
from edgesink.turns import Part, around_message, joined, write


@dataclass(frozen=True)
class History:
    """All that was said, the last message of the user included."""

    system: str | None
    users: tuple[str, ...]  # one more than answers
    answers: tuple[str, ...]
    base: str | None = None  # the key of a conversation that all of this comes behind
    from_tools: frozenset[int] = frozenset()  # places in `users` of what no person said: results of tools

    def keys(self) -> list[str]:
        """For every number of exchanges, 0 … len(answers), the key of a conversation that has read so many."""
        keys = [self.base or first_key(self.system)]
        for user, answer in zip(self.users, self.answers, strict=False):
            keys.append(key_after(keys[-1], user, answer))
        return keys


def first_key(system: str | None) -> str:
    """The key of a conversation that has read its system prompt only."""
    return hash_of("chat" if system is None else f"chat {hash_of(system)}")


def key_after(key: str, user: str, answer: str) -> str:
    """The key after one more exchange. White space around an answer may get lost on its way to a client and back."""
    return hash_of(f"{key} {hash_of(user)} {hash_of(answer.strip())}")


def hash_of(text: str) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Exchange:
    """A message of the user as ids, and the answer behind it where there is one."""

    ids: tuple[int, ...]  # of all of it
    turn: tuple[int, ...]  # of them, those up to where the answer begins
    before: int  # of them, those before the message
    closing: tuple[int, ...]  # what stands between message and answer

    def unfed(self, start: int, rest: tuple[int, ...]) -> Unfed:
        """Its message as it would be fed from position `start` on, behind the `rest` of another answer."""
        return Unfed(start, rest, self.turn, self.before, self.closing)


class TurnWriter:
    """Writes the turns of one model, which has some, as ids."""

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer) -> None:
        assert manifest.turns is not None
        self._manifest, self._turns = manifest, manifest.turns
        self._encoder = TurnEncoder(tokenizer.inner, self._turns.ids)

    @property
    def takes_system(self) -> bool:
        """Whether a conversation may have a system prompt."""
        return self._turns.with_system is not None

    def check(self, history: History) -> None:
        """BadOption for a system prompt or a message that the model's turns cannot hold."""
        self._turns.script(history.system)
        for user in history.users:
            self._turns.check_message(user)

    def ids(self, history: History, read: int | None) -> tuple[list[int], list[int]]:
        """What is to be fed for an answer to the last message where `read` exchanges have been.

        Args:
            read: None: nothing. 0: what stands before the first message, or the conversation that all comes behind.
        Returns:
            the ids before the last message, and those from there on; all in the second where they cannot be told apart.
            Before the first message they end where another message could as well come.
        Raises:
            BadOption: a message of which the tokenizer makes a control token.
        """
        parts = [self._exchange(history, place) for place in range(read or 0, len(history.users))]
        if history.base is None and not read:
            head, rest = self._cut_head(history, parts[0])
            parts = [*([head] if read is None else []), rest, *parts[1:]]
        before, last = joined([part for one in parts[:-1] for part in one]), parts[-1]
        if before and isinstance(before[-1], str) and isinstance(last[0], str):
            before, last = [], joined([*before, *last])
        goes_on = bool(read) or history.base is not None
        first = self._encoder.encode(before, goes_on) if before else []
        return first, self._encoder.encode(last, goes_on or bool(first))

    def head(self, history: History) -> list[int]:
        """What stands before the first message; nothing where all comes behind another conversation."""
        if history.base is not None:
            return []
        head, _ = self._cut_head(history, self._exchange(history, 0))
        return self._encoder.encode(head)

    def text_ids(self, text: str) -> list[int]:
        """Ids of text that stands behind other text; a control token that is spelled in it is ordinary text."""
        return self._encoder.encode([text], goes_on=True)

    def exchange(self, history: History, place: int, message: str | None = None) -> Exchange:
        """One exchange without the head, its ids as they are when no other is encoded with it.

        Args:
            message: in the place of the user's own; BadOption for one that the model's turns cannot hold.
        """
        if message is not None:
            self._turns.check_message(message)
        is_first = place == 0 and history.base is None
        script, now = self._turns.script(history.system), datetime.now()
        pieces = script.first if is_first else script.later
        parts = write(pieces, history.system, history.users[place] if message is None else message, now)
        before, behind = (write(some, history.system, "", now) for some in around_message(pieces))
        if is_first:
            at = _head_parts(before)
            parts, before = parts[at:], before[at:]
        encode = self._encoder.encode
        turn = tuple(encode(parts, not is_first))
        answers = history.answers[place : place + 1]
        ids = tuple(encode(joined([*parts, *answers]), not is_first)) if answers else turn
        return Exchange(ids, turn, len(encode(before, not is_first)), tuple(encode(behind, True)))

    def _exchange(self, history: History, place: int) -> list[Part]:
        """A message, and the answer to it where there is one."""
        script = self._turns.script(history.system)
        pieces = script.first if place == 0 and history.base is None else script.later
        parts = write(pieces, history.system, history.users[place], datetime.now())
        return joined([*parts, *history.answers[place : place + 1]])

    def _cut_head(self, history: History, first: list[Part]) -> tuple[list[Part], list[Part]]:
        """The first exchange cut at the last control token before the user's message."""
        before, _ = around_message(self._turns.script(history.system).first)
        written = write(before, history.system, "", datetime.now())
        at = _head_parts(written)
        return first[:at], first[at:]

    def sinks(self, system: str | None) -> int:
        """Pinned tokens of a new conversation: all before the first message, if that has a system prompt and fits."""
        stream, script = self._manifest.stream, self._turns.script(system)
        if system is None or script.repeats_system:
            return stream.sinks
        before, _ = around_message(script.first)
        size = len(self._manifest.prefix) + len(self._encoder.encode(write(before, system, "", datetime.now())))
        return size if size <= stream.max_sinks else stream.sinks


def _head_parts(before: list[Part]) -> int:
    """How many of the parts before the first message come before the last control token there."""
    return max((place for place, part in enumerate(before) if isinstance(part, int)), default=0)
