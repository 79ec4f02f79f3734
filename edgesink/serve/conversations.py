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
from pathlib import Path
from typing import Any

from edgesink.errors import EdgesinkError
from edgesink.runtime.session import Snapshot, Stream
from edgesink.serve.memories import Memories
from edgesink.serve.remembering import Brought, Remembering
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
    memory: Remembering | None = None  # of what left the window, where the server has such
    brought: Brought = field(default_factory=Brought)  # what came back for the last message

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
            "evicted": stream.evicted, "recalled": list(self.brought.passages),
            **({"quoted_tokens": self.brought.tokens} if self.memory is not None else {}),
        }  # fmt: skip


class Conversations:
    """Up to `most` conversations in memory, each of which may hold its state twice: now, and before its last message.

    Args:
        stream: of the model; the first conversation has it.
        saved: where conversations go that leave memory; None drops them.
        memories: what they remember beyond their windows; None: nothing.
    """

    def __init__(
        self,
        stream: Stream,
        most: int,
        saved: SavedConversations | None = None,
        memories: Memories | None = None,
    ) -> None:
        self._model, self._most, self._saved, self.memories = stream, most, saved, memories
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
        best = max(kept[1], moment[1], saved[1])
        if kept[0] is not None and kept[1] == best:
            return self._use(kept[0]), best
        if moment[0] is not None and moment[1] == best:
            return self._use(self._fork(moment[0])), best
        if saved[0] is not None and (found := self._restored(saved[0])) is not None:
            return self._use(found), best
        return self._use(Conversation(self._stream())), 0

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
        if self.memories is not None:
            self.memories.close()

    def _fork(self, moment: Moment) -> Conversation:
        """Another conversation that goes on from a moment of one, with what that remembered until then."""
        owner = next((one for one in self._kept.values() if one.before is moment), None)
        copy = None
        is_head = moment.key in self._heads  # of which nothing is remembered
        if self.memories is not None and owner is not None and owner.memory is not None and not is_head:
            copy = self.memories.copied(owner.memory, moment.snapshot.position)
        stream = self._stream()  # for which the owner may have to leave memory
        conversation = Conversation(stream)
        conversation.go_back(moment)
        if self.memories is not None:
            conversation.memory = self.memories.open(copy, stream)
        return conversation

    def _restored(self, key: str) -> Conversation | None:
        """A conversation from disk, with its memory; None if its file is gone or damaged."""
        assert self._saved is not None
        stream = self._stream()
        taken = self.memories.taken(self._saved.memory_path(key)) if self.memories is not None else None
        conversation = Conversation(stream)
        if self.memories is not None:
            conversation.memory = self.memories.open(taken, stream)
        if self._saved.restore(key, stream):
            return conversation
        self._drop(conversation)
        return None

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
                self._saved.save(conversation.key, conversation.stream, self._put_away(conversation))
            except EdgesinkError as error:
                log.warning("a conversation is dropped: %s", error)
        self._forget(conversation)

    def _put_away(self, conversation: Conversation) -> Callable[[Path], None] | None:
        """What leaves the memory of a conversation at a place, where it has one."""
        memories, memory = self.memories, conversation.memory
        return None if memories is None or memory is None else lambda goal: memories.put_away(memory, goal)

    def _forget(self, conversation: Conversation) -> None:
        self._kept.pop(conversation.id, None)
        self._drop(conversation)

    def _drop(self, conversation: Conversation) -> None:
        """Its stream is free for another, and its memory is gone, unless it was put away."""
        if self.memories is not None and conversation.memory is not None:
            self.memories.drop(conversation.memory)
            conversation.memory = None
        self._free.append(conversation.stream)
