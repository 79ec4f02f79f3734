"""What a request says was said: a system prompt, messages of the user and the answers between them, as plain text.

Owns the key of a conversation, a hash of all that was said up to an answer, and the ids of what is still to be read.
Knows no JSON: roles and tools have become text before (`chat_api`, `dialects`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from edgesink.errors import BadBundle
from edgesink.manifest import Manifest
from edgesink.runtime.tokenizer import Tokenizer
from edgesink.turn_encoder import TurnEncoder
from edgesink.turns import Part, Turns, around_message, write


@dataclass(frozen=True)
class History:
    """All that was said, the last message of the user included."""

    system: str | None
    users: tuple[str, ...]  # one more than answers
    answers: tuple[str, ...]

    def keys(self) -> list[str]:
        """For every number of exchanges, 0 … len(answers), the key of a conversation that has read so many."""
        keys = [_hash("system" if self.system is None else f"system {self.system}")]
        for user, answer in zip(self.users, self.answers, strict=False):
            keys.append(key_after(keys[-1], user, answer))
        return keys


def key_after(key: str, user: str, answer: str) -> str:
    """The key after one more exchange. White space around an answer may get lost on its way to a client and back."""
    return _hash(f"{key} {_hash(user)} {_hash(answer.strip())}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class TurnWriter:
    """Writes the turns of one model as ids.

    Raises:
        BadBundle: the model is not for conversations.
    """

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer) -> None:
        if manifest.turns is None:
            raise BadBundle(f"{manifest.name} ({manifest.no_turns})", "a chat model", "use /v1/completions")
        self._manifest, self._turns = manifest, manifest.turns
        self._encoder = TurnEncoder(tokenizer.inner, self._turns.ids)

    @property
    def turns(self) -> Turns:
        """As the manifest has them."""
        return self._turns

    def check(self, history: History) -> None:
        """BadOption for a system prompt or a message that the model's turns cannot hold."""
        self._turns.script(history.system)
        for user in history.users:
            self._turns.check_message(user)

    def ids(self, history: History, read: int) -> list[int]:
        """What is to be fed for an answer to the last message where `read` exchanges have been.

        Raises:
            BadOption: a message of which the tokenizer makes a control token.
        """
        script, now = self._turns.script(history.system), datetime.now()
        parts: list[Part] = []
        for place in range(read, len(history.users)):
            if place > read:
                parts.append(history.answers[place - 1])
            pieces = script.first if place == 0 else script.later
            parts += write(pieces, history.system, history.users[place], now)
        return self._encoder.encode(_joined(parts), goes_on=read > 0)

    def pins(self, system: str | None) -> int | None:
        """Sinks that hold all before the first message; None where they are too many, or there is nothing to pin."""
        script = self._turns.script(system)
        if system is None or script.repeats_system:
            return None
        before, _ = around_message(script.first)
        size = len(self._manifest.prefix) + len(self._encoder.encode(write(before, system, "", datetime.now())))
        return size if size <= self._manifest.stream.max_sinks else None


def _joined(parts: Sequence[Part]) -> list[Part]:
    """The text between two control tokens in one part."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return joined
