"""A memory of a conversation beyond its window: what is told is kept, and what belongs to a message comes back.

Owns the order of things around an answer, and that no trouble with the archive ends a conversation. What is kept is
`archive`'s, what is found is `search`'s, and how it comes back is `recalling`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np

from edgesink.errors import BadMemory, BadOption, DamagedMemory, EdgesinkError
from edgesink.memory import archive_file, calibration
from edgesink.memory.archive import MOST_BYTES, Archive, NewPassage, Passage, Role
from edgesink.memory.asking import asking
from edgesink.memory.calibration import Calibration
from edgesink.memory.context import neighbour, with_neighbour
from edgesink.memory.passages import cut
from edgesink.memory.recalling import BUDGET, PinnedFor, Way, fitting, pinned_ids, place_in, quoted
from edgesink.memory.search import Asked, Found, Gains, search
from edgesink.memory.spoken import Spoken
from edgesink.memory.standing import is_standing
from edgesink.runtime.session import Stream
from edgesink.runtime.transcript import Turn
from edgesink.runtime.turn_feed import Unfed

T = TypeVar("T")

RESERVE = 128  # pinned rows for what is brought back, where a bundle can pin so many
FEWEST_ROWS = 32  # with fewer nothing is brought back in pinned rows
QUOTED = 2  # passages that are quoted at most
PINNED = 1  # passages that are pinned at most


class Talk(Protocol):
    """A conversation, as its memory asks about it; `edgesink.Chat` is one."""

    @property
    def stream(self) -> Stream:
        """Where it is."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What was said so far; nothing where that is not kept."""

    def next_turn(self, message: str) -> Unfed:
        """What would be fed next to get an answer to a message; BadOption where the model's turns cannot hold it."""

    def text_ids(self, text: str) -> list[int]:
        """Ids of what somebody said, behind other text, with no control token; BadOption where that cannot be."""


@dataclass(frozen=True)
class Recall:
    """What came back for one message, and why."""

    message: str
    found: tuple[Found, ...]
    wishes: tuple[Passage, ...]  # standing instructions that came along
    way: Way
    search_ms: float
    bring_ms: float


@dataclass(frozen=True)
class _Place:
    """Where a message stands in the stream, what is quoted in it included."""

    start: int
    ids: tuple[int, ...]


def can_reserve(sinks: int, most: int) -> bool:
    """Whether a stream can pin enough rows beyond its own, of at most so many."""
    return most - sinks >= FEWEST_ROWS


class Memory:
    """What a conversation remembers beyond its window, in a file.

    Args:
        path: of the archive, made if there is none. A damaged one is set aside and a new one is made.
        way: how passages come back. "pinned" keeps up to 128 pinned rows of a new stream for it, and quotes where the
            bundle cannot pin so many, or the stream began without.
        most_bytes: how large the archive may grow.
        budget: tokens of a message that quotations may take.
        compare: how meanings are compared: "cached", with the calibration of `edgesink memory calibrate` if there is
            one in the cache or in the bundle; a calibration; or None, by words only.
        judge: whether the model itself judges the few passages that are nearest in meaning, where the bundle can.
        on_recall: called with what came back for a message, before it is answered, if anything did.
        on_trouble: called with a sentence when something goes wrong with it, now or later.

    Attributes:
        recalled: the last thing that came back; None before.
        is_off: whether it does nothing any more, because something went wrong.
        trouble: what went wrong, or what became of a damaged file; "" if all is well.
    Raises:
        BadMemory: the file is of another program or a later version.
        BadPlace: it cannot be read or written.
    """

    def __init__(
        self,
        path: str | Path,
        way: Way = "quoted",
        *,
        most_bytes: int = MOST_BYTES,
        budget: int = BUDGET,
        compare: Calibration | Literal["cached"] | None = "cached",
        judge: bool = True,
        on_recall: Callable[[Recall], object] | None = None,
        on_trouble: Callable[[str], object] | None = None,
    ) -> None:
        if way not in ("quoted", "pinned"):
            raise BadOption(f"a memory that brings back {way!r}", "'quoted' or 'pinned'")
        self.way, self.on_recall, self.on_trouble, self.budget = way, on_recall, on_trouble, budget
        self.trouble, self.is_off = "", False
        self.archive = self._open(Path(path), most_bytes)
        self.recalled: Recall | None = None
        self._compare, self._judge = compare, judge
        self._calibration: Calibration | None = None
        self._chat: Talk | None = None
        self._stream = 0  # its number in the archive; 0: none yet
        self._first: tuple[int, ...] = ()  # ids that its pinned rows always begin with
        self._own_sinks = self._reserved = 0  # pinned rows without those for what is brought back, and with them
        self._reached = 0  # position behind what was remembered last
        self._place: _Place | None = None
        self._pinned: PinnedFor | None = None
        self._shown: dict[int, int] = {}  # passages that were quoted, and where

    def _open(self, path: Path, most_bytes: int) -> Archive:
        try:
            return Archive(path, most_bytes)
        except DamagedMemory as error:
            aside = archive_file.set_aside(path)
            self._say(f"{error.found}; it is now {aside.name}, and a new memory was begun")
            return Archive(path, most_bytes)

    def close(self) -> None:
        """Leave one whole file behind; the memory does nothing any more."""
        self._put_back()
        self.archive.close()

    # ---- what a conversation asks (`runtime.chat.Memory`)

    @contextmanager
    def around(self, chat: Talk, message: str) -> Iterator[str]:
        """See `runtime.chat.Memory`."""
        try:
            yield self._guarded(lambda: self._prepare(chat, message), message)
        finally:
            self._put_back()

    def expect(self, chat: Talk, message: str) -> None:
        """See `runtime.chat.Memory`."""

        def stand() -> None:
            self._attach(chat)
            self._stand(chat, chat.next_turn(message))

        self._guarded(stand, None)

    def remember(self, turns: tuple[Turn, ...]) -> None:
        """See `runtime.chat.Memory`."""
        self._put_back()
        self._guarded(lambda: self._keep_turns(turns), None)

    def take_back(self, position: int) -> None:
        """See `runtime.chat.Memory`."""
        self._guarded(lambda: self._cut(position), None)

    # ---- what whoever feeds the turns by themselves asks

    def heard(self, chat: Talk, turns: tuple[Turn, ...], unfed: Unfed) -> None:
        """Take the turns of an exchange that has been fed, whether or not anything was looked for before it.

        Args:
            turns: its message and its answer, or what of the two is to be kept.
            unfed: the message's turn as it was fed, quotations included.
        """

        def keep() -> None:
            self._attach(chat)
            self._stand(chat, unfed)
            self._keep_turns(turns)

        self._guarded(keep, None)

    # ---- before an answer

    def _prepare(self, chat: Talk, message: str) -> str:
        """The message as it is to be fed; what was found stands in it, or in the pinned rows."""
        self._attach(chat)
        written = self._bring_back(chat, message)
        self._stand(chat, chat.next_turn(written))
        return written

    def _stand(self, chat: Talk, unfed: Unfed) -> None:
        """Know where a message stands, in a stream that the archive knows too."""
        ids = unfed.turn[unfed.before : unfed.before + unfed.message_size]
        self._place = _Place(unfed.message_start, ids)
        if not self._stream:
            self._first = (*chat.stream.manifest.prefix, *unfed.turn)[: self._own_sinks]
            self._stream = self.archive.begin_stream(chat.stream.manifest.fingerprint, self._first)

    def _attach(self, chat: Talk) -> None:
        """Know the stream that is talked in: a new one, one that is taken up again, or the same as before."""
        stream, manifest = chat.stream, chat.stream.manifest
        if self._chat is not chat:
            self._chat, self._stream, self._pinned = chat, 0, PinnedFor(stream)
            self._calibration = self._cached(chat) if self._compare == "cached" else self._compare
        if stream.position == 0:
            self._stream = 0
            self._shown.clear()
            self._reserve(stream)
        elif not self._stream or stream.position < self._reached:
            knew = self.archive.count > 0
            self._stream, self._first = self.archive.resume_stream(manifest.fingerprint, stream.position)
            self._shown.clear()
            if not knew:
                self._take_over(chat)
        self._reached = stream.position

    def _cached(self, chat: Talk) -> Calibration | None:
        """The calibration of the cache or the bundle; where it cannot be used, that is said, and words are searched."""
        try:
            return calibration.read(chat.stream.manifest, chat.stream.bundle)
        except BadMemory as error:
            self._say(f"only words are searched: {error}")
            return None

    def _take_over(self, chat: Talk) -> None:
        """What was said in a conversation that began without a memory: found by its words."""
        tokenizer, turns = chat.stream.tokenizer, []
        for turn in chat.turns:
            if turn.role != "system" and turn.text.strip():
                spoken = Spoken.of(tokenizer, tokenizer.encode(turn.text))
                turns.append((turn.role, self._passages(turn.role, turn.text, spoken, turn.start, compared=False)))
        self.archive.add_turns(self._stream, turns)

    def _reserve(self, stream: Stream) -> None:
        """Rows for what is brought back, behind those that are pinned anyway."""
        if stream.sinks != self._reserved:
            self._own_sinks = stream.sinks
        most = stream.manifest.stream.max_sinks
        pins = self.way == "pinned" and can_reserve(self._own_sinks, most)
        self._reserved = min(self._own_sinks + RESERVE, most) if pins else self._own_sinks
        if stream.sinks != self._reserved:
            stream.reset(sinks=self._reserved)

    def _bring_back(self, chat: Talk, message: str) -> str:
        """Look for what belongs to a message, and bring it back; the message as it is to be fed."""
        began, stream, unfed = time.perf_counter(), chat.stream, chat.next_turn(message)
        seen_from = max(0, unfed.end - stream.window)
        if not self.archive.has_unseen(self._stream, seen_from):
            return message
        can_pin = self._can_pin(stream)
        with self._asked(chat, message, unfed) as (asked, gains):
            count = PINNED if can_pin else QUOTED
            found = search(self.archive, asked, self._calibration, self._stream, seen_from, count, gains)
        wishes = [one for one in self.archive.standing() if one.stream != self._stream or (one.first or -1) < seen_from]
        is_shown = lambda one: self._shown.get(one.id, -1) >= seen_from  # noqa: E731
        found = [one for one in found if not one.passage.standing and not is_shown(one.passage)]
        if found and (other := neighbour(self.archive, found[0].passage)) is not None and not is_shown(other):
            found = with_neighbour(found, other)
        searched = time.perf_counter()
        way: Way | None = None
        written, passages, brought = message, [one.passage for one in found], list[Passage]()
        if can_pin and self._pinned is not None:
            ids, brought = pinned_ids(chat.text_ids, self._first, wishes, passages, stream.sinks)
            if brought:
                self._pinned.pin(ids)
                way = "pinned"
        if way is None:
            wishes = [one for one in wishes if not is_shown(one)]
            written, brought = self._quoted(chat, message, wishes, passages)
            way = "quoted" if brought else None
        if way is not None:
            ended = time.perf_counter()
            self.recalled = Recall(
                message, tuple(one for one in found if one.passage in brought),
                tuple(one for one in wishes if one in brought), way,
                1000 * (searched - began), 1000 * (ended - searched),
            )  # fmt: skip
            if self.on_recall is not None:
                self.on_recall(self.recalled)
        return written

    @contextmanager
    def _asked(self, chat: Talk, message: str, unfed: Unfed) -> Iterator[tuple[Asked, Gains | None]]:
        """The message as the model sees it, and the model as a judge; the text alone without a calibration."""
        if self._calibration is None:
            yield Asked(message), None
            return
        encode = chat.text_ids if self._judge else None
        with asking(chat.stream, self._calibration, message, unfed, encode) as both:
            yield both

    @contextmanager
    def pinned_for(self, chat: Talk, passages: list[Passage]) -> Iterator[None]:
        """Some passages in the pinned rows while this is entered; BadOption where they cannot be."""
        self._attach(chat)
        ids, brought = pinned_ids(chat.text_ids, self._first, [], passages, chat.stream.sinks)
        if not self._can_pin(chat.stream) or not brought or self._pinned is None:
            raise BadOption("a memory in pinned rows", 'a stream that began with rows for it, and a way "pinned"')
        self._pinned.pin(ids)
        try:
            yield
        finally:
            self._put_back()

    def _quoted(
        self, chat: Talk, message: str, wishes: list[Passage], found: list[Passage]
    ) -> tuple[str, list[Passage]]:
        """The message with quotations, and what is quoted: nothing where the model's turns cannot hold it."""
        wishes, found = fitting(chat.stream.tokenizer, wishes, found, self.budget)
        brought = [*wishes, *found]
        if not brought:
            return message, []
        written = quoted(message, wishes, found)
        try:
            chat.next_turn(written)
        except BadOption:
            return message, []
        self._shown.update((one.id, chat.stream.position) for one in brought)
        return written, brought

    def _can_pin(self, stream: Stream) -> bool:
        room, own = stream.sinks - len(self._first), stream.manifest.prefix
        if self._first[: len(own)] != own:  # of a stream that the archive does not know, its first ids are not either
            return False
        return bool(self.way == "pinned" and self._stream and room >= FEWEST_ROWS and stream.position >= stream.sinks)

    # ---- after it

    def _keep_turns(self, turns: tuple[Turn, ...]) -> None:
        place, self._place = self._place, None
        if place is None or self._chat is None or not self._stream:
            return
        tokenizer = self._chat.stream.tokenizer
        kept: list[tuple[Role, list[NewPassage]]] = []
        for turn in turns:
            if turn.role == "user":
                spoken = Spoken.of(tokenizer, place.ids)
                kept.append((turn.role, self._passages(turn.role, turn.text, spoken, place.start)))
            elif turn.role == "assistant" and turn.text.strip():
                spoken = Spoken.of(tokenizer, tokenizer.encode(turn.text))
                kept.append((turn.role, self._passages(turn.role, turn.text, spoken, turn.start)))
        self.archive.add_turns(self._stream, kept, self._calibration.name if self._calibration else "")
        self._reached = self._chat.stream.position

    def _passages(self, role: Role, text: str, spoken: Spoken, start: int, compared: bool = True) -> list[NewPassage]:
        """A turn in passages; `spoken` are its tokens, the first of them at `start`; `compared` reads their vectors."""
        text = text.strip()
        begin = place_in(spoken.text, text)  # what is quoted was kept when it was said
        skipped = spoken.token_of(begin) if begin >= 0 else 0
        if begin < 0:
            begin, text = 0, spoken.text
        ends = [end - begin for end in spoken.ends[skipped:]]
        passages, reached = [], self._chat.stream.position if self._chat is not None else 0
        for piece in cut(text, ends):
            said = text[piece.start : piece.end]
            first, last = skipped + piece.first, skipped + piece.last
            tokens, mean = self._vectors(spoken, start, first, last) if compared else (None, None)
            wish = role == "user" and is_standing(said)
            begins, ends_at = (min(start + end, reached) for end in (first, last))  # a cut answer's end is not fed yet
            passages.append(NewPassage(begins, ends_at, said, wish, tokens, mean))
        return passages

    def _vectors(
        self, spoken: Spoken, start: int, first: int, last: int
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Those of the tokens that matter; none where the stream does not hold their rows any more, or not yet."""
        assert self._chat is not None
        stream = self._chat.stream
        last = min(last, stream.position - start)
        matters = np.array([bool(word) for word in spoken.words()[first:last]], bool)
        if self._calibration is None or not matters.any():
            return None, None
        try:
            rows = stream.values(self._calibration.numbers.layer, start + first, start + last)
        except BadOption:  # a turn longer than the window
            return None, None
        return self._calibration.packed(rows[matters])

    def _cut(self, position: int) -> None:
        if self._stream:
            self.archive.cut_stream(self._stream, position)
            self._reached = position
            self._shown = {id_: place for id_, place in self._shown.items() if place < position}

    # ---- trouble

    def _guarded(self, work: Callable[[], T], otherwise: T) -> T:
        """What goes wrong with the memory ends the memory, and not the conversation."""
        if self.is_off:
            return otherwise
        try:
            return work()
        except EdgesinkError as error:
            self._put_back()
            self.is_off = True
            self._say(f"the memory is off: {error}")
            return otherwise

    def _say(self, trouble: str) -> None:
        self.trouble = trouble
        if self.on_trouble is not None:
            self.on_trouble(trouble)

    def _put_back(self) -> None:
        if self._pinned is not None:
            self._pinned.put_back()
