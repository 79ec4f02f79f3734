"""What an answer goes on from: a history of messages, or a bare text or its ids.

Each kind says which conversations have read its beginning, what is still to be fed to them, and how they are found
again once an answer was given.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from edgesink.manifest import Manifest
from edgesink.runtime.tokenizer import Tokenizer
from edgesink.serve.api_error import ApiError
from edgesink.serve.dialects import Dialect
from edgesink.serve.history import Exchange, History, TurnWriter, hash_of, key_after
from edgesink.serve.tools import canonical


class Prompt(Protocol):
    """What an answer goes on from."""

    def place(self, key: str) -> int | None:
        """How much of it (in a measure of its own, 0 is nothing) a conversation with this key has read, if it has."""

    def is_head(self, key: str) -> bool:
        """Whether this is the key of a conversation that has read its system prompt and no more."""

    def sinks(self) -> int:
        """Pinned tokens, where it begins a conversation."""

    def ids(self, read: int) -> tuple[list[int], list[int]]:
        """What is still to be fed, in two parts; between them the conversation has the key `key_between`."""

    def key_between(self) -> str:
        """See `ids`."""

    def key_after(self, text: str, ids: Sequence[int]) -> str:
        """The key of a conversation that has read all of it and said this."""


@dataclass(frozen=True)
class ChatPrompt:
    """A history of messages."""

    history: History
    writer: TurnWriter
    dialect: Dialect  # in which an answer that a client sends back is made text again

    def __post_init__(self) -> None:
        places = {key: place for place, key in enumerate(self.history.keys(), start=1)}
        object.__setattr__(self, "_places", places)

    def place(self, key: str) -> int | None:
        """See `Prompt.place`; exchanges, and 1 for what stands before the first."""
        found: int | None = self._places.get(key)  # type: ignore[attr-defined]
        return found

    def is_head(self, key: str) -> bool:
        """See `Prompt.is_head`; what stands before the first message of a continuation is a conversation of its own."""
        return self.history.base is None and self.place(key) == 1

    def sinks(self) -> int:
        """See `Prompt.sinks`."""
        return self.writer.sinks(self.history.system)

    def ids(self, read: int) -> tuple[list[int], list[int]]:
        """See `Prompt.ids`."""
        if not read and self.history.base is not None:
            message = "The conversation of the previous response is not kept any more. Send all of it as input."
            raise ApiError(message, 404, "previous_response_id", "response_not_found")
        return self.writer.ids(self.history, read - 1 if read else None)

    @property
    def last(self) -> int:
        """The place of the last message among those of the user."""
        return len(self.history.answers)

    def head(self) -> list[int]:
        """See `TurnWriter.head`."""
        return self.writer.head(self.history)

    def exchange(self, place: int, message: str | None = None) -> Exchange:
        """See `TurnWriter.exchange`."""
        return self.writer.exchange(self.history, place, message)

    def key_between(self) -> str:
        """See `Prompt.key_between`."""
        return next(reversed(self._places))  # type: ignore[attr-defined]

    def key_after(self, text: str, ids: Sequence[int]) -> str:
        """See `Prompt.key_after`."""
        return key_after(self.key_between(), self.history.users[-1], canonical(text, self.dialect))


class BarePrompt(ABC):
    """A prompt without turns: nothing in it is a system prompt, and no moment before its end is kept."""

    kind: ClassVar[str]  # how its keys begin
    manifest: Manifest

    @property
    @abstractmethod
    def size(self) -> int:
        """In its measure."""

    @abstractmethod
    def key_of(self, size: int) -> str:
        """The key of a conversation that has read so much of it."""

    def place(self, key: str) -> int | None:
        """See `Prompt.place`."""
        size = _size(key, self.kind)
        return size if size is not None and size <= self.size and key == self.key_of(size) else None

    def is_head(self, key: str) -> bool:
        """See `Prompt.is_head`."""
        return False

    def sinks(self) -> int:
        """See `Prompt.sinks`."""
        return self.manifest.stream.sinks

    def key_between(self) -> str:
        """See `Prompt.key_between`."""
        return ""


@dataclass(frozen=True)
class TextPrompt(BarePrompt):
    """A bare text, in characters; special tokens in it count as such. What was said is compared as text, not by ids."""

    kind = "text"
    text: str
    tokenizer: Tokenizer
    manifest: Manifest

    @property
    def size(self) -> int:
        """In characters."""
        return len(self.text)

    def key_of(self, size: int) -> str:
        """See `BarePrompt.key_of`."""
        return text_key(self.text[:size])

    def ids(self, read: int) -> tuple[list[int], list[int]]:
        """See `Prompt.ids`."""
        if not read:
            return [], self.tokenizer.encode(self.text, special=True)
        if read == len(self.text):
            return [], []
        before, whole = (self.tokenizer.encode(text) for text in ("\n", f"\n{self.text[read:]}"))
        goes_on = whole[: len(before)] == before  # so that no space is put in front, as there is before a whole text
        return [], whole[len(before) :] if goes_on else self.tokenizer.encode(self.text[read:])

    def key_after(self, text: str, ids: Sequence[int]) -> str:
        """See `Prompt.key_after`."""
        return text_key(self.text + text)


@dataclass(frozen=True)
class IdsPrompt(BarePrompt):
    """Ids of a text."""

    kind = "ids"
    given: tuple[int, ...]
    manifest: Manifest

    @property
    def size(self) -> int:
        """In ids."""
        return len(self.given)

    def key_of(self, size: int) -> str:
        """See `BarePrompt.key_of`."""
        return ids_key(self.given[:size])

    def ids(self, read: int) -> tuple[list[int], list[int]]:
        """See `Prompt.ids`."""
        return [], list(self.given[read:])

    def key_after(self, text: str, ids: Sequence[int]) -> str:
        """See `Prompt.key_after`."""
        return ids_key((*self.given, *ids))


def text_key(text: str) -> str:
    """The key of a conversation that has read this text: its characters and their hash."""
    return f"text-{len(text)}-{hash_of(text)}"


def ids_key(ids: Sequence[int]) -> str:
    """The key of a conversation that has read these ids."""
    return f"ids-{len(ids)}-{hashlib.sha256(np.array(ids, np.int64).tobytes()).hexdigest()}"


def _size(key: str, kind: str) -> int | None:
    name, _, rest = key.partition("-")
    return int(rest.partition("-")[0]) if name == kind else None
