"""The conversations that a server keeps: a stream each, found again by what it has read.

Owns how many are in memory, and who makes room for whom: the least recently used goes to disk. All is done on the
scheduler's thread. Knows no messages: a conversation is known by its key.
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edgesink.errors import EdgesinkError
from edgesink.runtime.session import Snapshot, Stream
from edgesink.serve.saved import SavedConversations

log = logging.getLogger("edgesink.serve")

HEADS = 4  # copies kept of streams that have read no more than a system prompt

PlaceOf = Callable[[str], int | None]
"""How much of a prompt a conversation with this key has read; None if it has read something else."""


@dataclass(frozen=True)
class Moment:
    """A conversation as it was between two answers."""

    key: str
    unfed: tuple[int, ...]
    snapshot: Snapshot


@dataclass(eq=False)
class Conversation:
    """A stream and what it has read."""

    stream: Stream
    id: str = field(default_factory=lambda: f"conv-{secrets.token_hex(8)}")
    key: str = ""  # of what was read and said; empty while that is of no use to anyone
    unfed: tuple[int, ...] = ()  # ids of the last answer that are not in the stream yet
    before: Moment | None = None  # the last message, to which another answer may be wanted, or another message
    busy: bool = False

    def remember(self, key: str) -> None:
        """Keep this moment as the one before the last message."""
        self.before = Moment(key, self.unfed, self.stream.snapshot())

    def go_back(self, moment: Moment) -> None:
        """Be as at that moment."""
        self.stream.return_to(moment.snapshot)
        self.key, self.unfed, self.before = moment.key, moment.unfed, moment

    def status(self) -> dict[str, Any]:
        """How full its ring is, as clients are told."""
        stream = self.stream
        return {
            "conversation": self.id, "position": stream.position, "capacity": stream.capacity, "sinks": stream.sinks,
            "evicted": stream.evicted, "recalled": [],
        }  # fmt: skip


class Conversations:
    """Up to `most` conversations in memory, each of which may hold its state twice: now, and before its last message.

    Args:
        stream: of the model; the first conversation has it.
        saved: where conversations go that leave memory; None drops them.
    """

    def __init__(self, stream: Stream, most: int, saved: SavedConversations | None = None) -> None:
        self._model, self._most, self._saved = stream, most, saved
        self._made, self._free = 1, [stream]
        self._kept: OrderedDict[str, Conversation] = OrderedDict()  # by id, the least recently used first
        self._heads: OrderedDict[str, Moment] = OrderedDict()  # by key, what conversations begin with

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def saved(self) -> int:
        """Conversations on disk."""
        return len(self._saved.names()) if self._saved else 0

    def find(self, id_: str) -> Conversation | None:
        """By its name."""
        return self._kept.get(id_)

    def take(self, place_of: PlaceOf) -> tuple[Conversation, int] | None:
        """The conversation that has read the most, and how much; None where all are busy.

        A conversation goes on where its end is wanted. Where the moment before its last message is wanted, it stays as
        it is, and another goes on from there. It is the caller's until it is given back.
        """
        if not self._has_room():
            return None
        kept, moment, saved = self._best_kept(place_of), self._best_moment(place_of), self._best_saved(place_of)
        best = max((place for _, place in (kept, moment, saved)), default=0)
        if kept[0] is not None and kept[1] == best:
            return self._use(kept[0]), best
        stream = self._stream()
        conversation, read = Conversation(stream), 0
        if moment[0] is not None and moment[1] == best:
            conversation.go_back(moment[0])
            read = best
        elif saved[0] is not None and self._saved is not None and self._saved.restore(saved[0], stream):
            read = best
        return self._use(conversation), read

    def give_back(self, conversation: Conversation) -> None:
        """It may be found again by its key; without one it is forgotten."""
        conversation.busy = False
        if not conversation.key:
            self._forget(conversation)

    def keep_head(self, moment: Moment) -> None:
        """Other conversations may begin so."""
        self._heads[moment.key] = moment
        self._heads.move_to_end(moment.key)
        while len(self._heads) > HEADS:
            self._heads.popitem(last=False)

    def close(self) -> None:
        """Save what is in memory."""
        for conversation in list(self._kept.values()):
            self._leave_memory(conversation)

    def _use(self, conversation: Conversation) -> Conversation:
        self._kept[conversation.id] = conversation
        self._kept.move_to_end(conversation.id)
        conversation.busy, conversation.key = True, ""
        return conversation

    def _best_kept(self, place_of: PlaceOf) -> tuple[Conversation | None, int]:
        idle = [(one, place_of(one.key)) for one in self._kept.values() if not one.busy]
        return max(((one, place) for one, place in idle if place), key=lambda found: found[1], default=(None, 0))

    def _best_moment(self, place_of: PlaceOf) -> tuple[Moment | None, int]:
        before = [one.before for one in self._kept.values() if one.before is not None]
        moments = [(moment, place_of(moment.key)) for moment in (*before, *self._heads.values())]
        return max(((one, place) for one, place in moments if place), key=lambda found: found[1], default=(None, 0))

    def _best_saved(self, place_of: PlaceOf) -> tuple[str | None, int]:
        saved = [(key, place_of(key)) for key in self._saved.names()] if self._saved else []
        return max(((key, place) for key, place in saved if place), key=lambda found: found[1], default=(None, 0))

    def _has_room(self) -> bool:
        """Whether there is a stream that nobody uses, or may be one more."""
        return bool(self._free) or self._made < self._most or any(not one.busy for one in self._kept.values())

    def _stream(self) -> Stream:
        """A stream for a conversation that comes into memory, where there is room."""
        if not self._free and self._made < self._most:
            self._made += 1
            return self._model.another()
        if not self._free:
            self._leave_memory(next(one for one in self._kept.values() if not one.busy))
        return self._free.pop()

    def _leave_memory(self, conversation: Conversation) -> None:
        if self._saved is not None and conversation.key and not conversation.busy:
            try:
                if conversation.unfed:
                    conversation.stream.feed(conversation.unfed)
                self._saved.save(conversation.key, conversation.stream)
            except EdgesinkError as error:
                log.warning("a conversation is dropped: %s", error)
        self._forget(conversation)

    def _forget(self, conversation: Conversation) -> None:
        self._kept.pop(conversation.id, None)
        self._free.append(conversation.stream)
