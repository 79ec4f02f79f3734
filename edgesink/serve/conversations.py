"""The conversations that a server keeps: a stream each, found again by what it has read.

Owns how many are in memory, who makes room for whom (least recently used first), and their files. All is done on the
scheduler's thread. Knows no messages: a conversation is asked for by the keys of what it may have read.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgesink.runtime.session import Stream


@dataclass(eq=False)
class Conversation:
    """A stream and what it has read."""

    stream: Stream
    id: str = field(default_factory=lambda: f"conv-{secrets.token_hex(8)}")
    key: str = ""  # of what was read and said; empty while that is of no use to anyone
    unfed: tuple[int, ...] = ()  # ids of the last answer that are not in the stream yet
    busy: bool = False

    def status(self) -> dict[str, Any]:
        """How full its ring is, as clients are told."""
        stream = self.stream
        return {
            "conversation": self.id, "position": stream.position, "capacity": stream.capacity, "sinks": stream.sinks,
            "evicted": stream.evicted, "recalled": [],
        }  # fmt: skip


class Conversations:
    """Up to `most` conversations in memory.

    Args:
        stream: of the model; the first conversation has it.
    """

    def __init__(self, stream: Stream, most: int) -> None:
        self._most = most
        self._free_streams = [stream]
        self._made, self._model = 1, stream
        self._kept: dict[str, Conversation] = {}  # id -> conversation, the least recently used first

    def take(self, keys: Sequence[str]) -> tuple[Conversation, int] | None:
        """The conversation that has read the most of `keys`, and how many places of them; None where all are busy.

        A conversation that has read nothing is at place 0. It is the caller's until it is given back.
        """
        place = {key: at for at, key in enumerate(keys)}
        found = [one for one in self._kept.values() if not one.busy and one.key in place]
        if found:
            best = max(found, key=lambda one: place[one.key])
            read = place[best.key]
        else:
            stream = self._stream()
            if stream is None:
                return None
            best, read = Conversation(stream), 0
        self._kept.pop(best.id, None)
        self._kept[best.id] = best
        best.busy, best.key = True, ""
        return best, read

    def give_back(self, conversation: Conversation) -> None:
        """It may be found again by its key, or without one is forgotten."""
        conversation.busy = False
        if not conversation.key:
            self._drop(conversation)

    def find(self, id_: str) -> Conversation | None:
        """By its name."""
        return self._kept.get(id_)

    def __len__(self) -> int:
        return len(self._kept)

    def _stream(self) -> Stream | None:
        """A stream for a new conversation, at its beginning."""
        if not self._free_streams and self._made < self._most:
            self._made += 1
            return self._model.another()
        if not self._free_streams:
            idle = next((one for one in self._kept.values() if not one.busy), None)
            if idle is None:
                return None
            self._drop(idle)
        stream = self._free_streams.pop()
        return stream

    def _drop(self, conversation: Conversation) -> None:
        self._kept.pop(conversation.id, None)
        self._free_streams.append(conversation.stream)


Say = Callable[[str], None]
