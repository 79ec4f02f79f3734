"""A conversation without end: each turn is fed once, nothing is written twice, and the last turns can be taken back.

Owns where a conversation stands (before its first turn, in a turn whose reading was cut short, in an answer, or behind
one), its transcript, its random numbers, and who is told of tokens and of what is forgotten. Which ids a message is
are `turn_feed`'s, and what going back needs is kept by `undo`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from edgesink.errors import BadBundle, BadOption
from edgesink.runtime.generate import Token, generate
from edgesink.runtime.sampling import SamplingSpec, make_sampler, seeded
from edgesink.runtime.saved_chat import ChatState
from edgesink.runtime.session import Stream
from edgesink.runtime.transcript import Eviction, Turn
from edgesink.runtime.turn_feed import TurnFeed, Unfed
from edgesink.spec import Evict

Pin = Literal["system", "fit", "none"]
"""What is pinned when a conversation begins: all that stands before the first message, which includes the system
prompt; that if it fits; or as many tokens as the stream has sinks."""

KEEP = object()
"""As the system prompt of a new conversation: that of the last one."""


class Memory(Protocol):
    """What remembers beyond the window, as a conversation asks it."""

    def around(self, chat: Chat, message: str) -> AbstractContextManager[str]:
        """Entered before a message is read and left when its answer has ended; gives the message as it is to be fed."""

    def expect(self, chat: Chat, message: str) -> None:
        """Called before an exchange is read that was had elsewhere: nothing is looked for, it will be remembered."""

    def remember(self, turns: tuple[Turn, ...]) -> None:
        """Takes the turns of an exchange that has ended."""

    def take_back(self, position: int) -> None:
        """Forgets turns that began at `position` or later: they were taken back."""


@dataclass
class OpenAnswer:
    """An exchange that is going on."""

    message: str
    unfed: Unfed  # the whole of it, as its reading began
    text: list[str] = field(default_factory=list)
    ended: bool = False  # by the model itself


class Chat:
    """A conversation on a stream.

    Args:
        stream: where it is; a new one, or one that other conversations went before on.
        system: the system prompt; None takes what the model's template has by itself.
        sampling: how answers are chosen; the default is greedy.
        pin: what is never forgotten. "system", all before the first message; BadOption with both numbers if the bundle
            cannot pin so many. "fit": that where it fits, else `unpinned` says why not. "none": the stream's own sinks.
            A stream that has begun keeps what it has pinned.
        memory: remembers beyond the window.
        evict: what is forgotten first. "turns": whole exchanges, so that the window begins with a message of the user,
            unless that hides more than half of it: a longer exchange is forgotten token by token. "plain": always token
            by token. None: turns where the bundle can, which one that was exported long ago cannot.
        undo_bytes: of memory that `undo` may take, at most; None is as much as the state, which is enough for the last
            exchange however long, and for many short ones. 0 keeps nothing. On a GPU nothing is kept.
        on_token: called with every token of an answer.
        on_evict: called when a whole turn has left the window: the model sees nothing of it any more.

    Attributes:
        stream: its `evicted` says how much has been forgotten.
        memory, on_token, on_evict: may be replaced at any time.
        unpinned: why the system prompt is not pinned though that was asked for; "" otherwise.

    Raises:
        BadBundle: the model is not for conversations.
        BadOption: it takes no system prompt, or demands one, or cannot pin it; or it cannot evict by turns.
    """

    def __init__(
        self,
        stream: Stream,
        system: str | None = None,
        sampling: SamplingSpec | None = None,
        pin: Pin = "system",
        memory: Memory | None = None,
        *,
        evict: Evict | None = None,
        undo_bytes: int | None = None,
        on_token: Callable[[Token], object] | None = None,
        on_evict: Callable[[Eviction], object] | None = None,
    ) -> None:
        if pin not in ("system", "fit", "none"):
            raise BadOption(f"pin = {pin!r}", "'system', 'fit' or 'none'")
        self.stream, self.memory, self.on_token, self.on_evict = stream, memory, on_token, on_evict
        self._sampling = sampling or SamplingSpec()
        self._random = seeded(self._sampling.seed)
        self._feed = self._feed_of(system)
        self._turns: list[Turn] = []
        self._told = 0  # turns that `on_evict` was told of
        self._open: OpenAnswer | None = None
        self._unfed = Unfed(stream.position)
        self.evict: Evict = self._checked_evict(evict)
        self._undo: list[tuple[Unfed, int]] = []  # for every checkpoint what was unfed, and how many turns there were
        self._journal = stream.keep_journal(undo_bytes) if stream.is_in_memory and undo_bytes != 0 else None
        self.unpinned = ""
        self._pin: Pin = pin
        if stream.position == 0:
            self._set_pins()

    # ---- what it is

    @property
    def system(self) -> str | None:
        """The system prompt that was given."""
        return self._feed.system

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The transcript: the turns that have ended, in their order."""
        return tuple(self._turns)

    @property
    def sampling(self) -> SamplingSpec:
        """How answers are chosen; may be replaced between turns. A new seed begins a new sequence of numbers."""
        return self._sampling

    @sampling.setter
    def sampling(self, sampling: SamplingSpec) -> None:
        if sampling.seed is not None and sampling.seed != self._sampling.seed:
            self._random = seeded(sampling.seed)
        self._sampling = sampling

    def set_sampling(self, **changes: Any) -> SamplingSpec:
        """Change some fields of `sampling` by their names; BadOption for a bad one, which changes none."""
        known = [one.name for one in dataclasses.fields(SamplingSpec)]
        if unknown := sorted(changes.keys() - set(known)):
            raise BadOption(f"a sampling option {unknown[0]}", f"one of {', '.join(known)}")
        self.sampling = dataclasses.replace(self._sampling, **changes)
        return self._sampling

    @property
    def repeats_system(self) -> bool:
        """Whether every message carries the system prompt, and not only the first."""
        return self._feed.repeats_system

    @property
    def begins_with_system(self) -> bool:
        """Whether a new conversation begins with a system prompt that no later message carries."""
        return self.system is not None and not self.repeats_system

    def _checked_evict(self, evict: Evict | None) -> Evict:
        if evict not in ("turns", "plain", None):
            raise BadOption(f"evict = {evict!r}", "'turns' or 'plain'")
        if evict == "turns" and not self.stream.can_mark:
            name = self.stream.manifest.name
            raise BadOption(f"turns to be evicted whole by this bundle of {name}", "a newer one", "export it again")
        return evict or ("turns" if self.stream.can_mark else "plain")

    # ---- beginning

    def pin_system(self) -> None:
        """Start anew with all before the first message as sinks; BadOption if the bundle cannot pin that many."""
        if self.repeats_system:
            raise BadOption("a pinned system prompt", "none: this model's turns repeat it in every message")
        self._check_pins(self._feed.head_size)
        self.stream.reset(sinks=self._feed.head_size)
        self._begin_anew()

    def reset(self, system: Any = KEEP) -> None:
        """Start a new conversation, with the same system prompt or another; what can be pinned is pinned as before."""
        if system is not KEEP:
            feed, before = self._feed_of(system), self._feed
            self._feed = feed
            try:
                self._set_pins()
            except BadOption:
                self._feed = before
                raise
        self.stream.reset()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._open, self._unfed, self._told = None, Unfed(0), 0
        self._turns.clear()
        self._undo.clear()

    def _feed_of(self, system: str | None) -> TurnFeed:
        manifest = self.stream.manifest
        if manifest.turns is None:
            raise BadBundle(f"{manifest.name} ({manifest.no_turns})", "a chat model", "use `edgesink generate`")
        return TurnFeed(manifest, manifest.turns, self.stream.tokenizer, system)

    def _set_pins(self) -> None:
        self.unpinned = ""
        if self._pin == "none" or self.repeats_system:
            return
        size = self._feed.head_size
        try:
            self._check_pins(size)
        except BadOption as error:
            if self._pin == "system" and self.system is not None:
                raise
            self.unpinned = str(error)
            return
        if size > 0:
            self.stream.reset(sinks=size)

    def _check_pins(self, size: int) -> None:
        """BadOption if the bundle cannot pin so many tokens."""
        most = self.stream.manifest.stream.max_sinks
        if size > most:
            raise BadOption(
                f"a system prompt of {size} tokens with what stands around it",
                f"at most {most}, which is what this bundle can pin",
                "shorten it, export with a larger --max-sinks, or leave it unpinned",
            )

    # ---- talking

    def forgotten(self, message: str) -> tuple[int, int]:
        """The tokens of a message that would be fed next, and how many of its first no answer to it will see.

        Raises:
            BadOption: as `answer`.
        """
        unfed = self.next_turn(message)
        begin = max(unfed.message_start, self.stream.sinks)  # a message too long for the window is evicted by tokens
        return unfed.message_size, min(unfed.message_size, max(0, unfed.end - self.stream.window - begin))

    def next_turn(self, message: str) -> Unfed:
        """What would be fed next to get an answer to a message, and where it would stand; BadOption as `answer`."""
        self._feed.check_message(message)
        return self._feed.next(self._unfed, message, self.stream.position)

    def text_ids(self, text: str) -> list[int]:
        """Ids of text that stands behind other text; a control token that is spelled in it is ordinary text.

        Raises:
            BadOption: the tokenizer makes a control token of it, however it is written.
        """
        return self._feed.text_ids(text)

    def answer(self, message: str, max_new_tokens: int | None = None) -> Iterator[Token]:
        """Feed a message and yield the answer. Stop asking, and the next message goes on from what was said.

        Raises:
            BadOption: an empty message, or one that the model's turns cannot hold; the conversation is as it was.
        """
        self._feed.check_message(message)
        self._finish(self._open)
        self.next_turn(message)  # what the model cannot be told is refused here, and is no trouble of the memory
        with self.memory.around(self, message) if self.memory else nullcontext(message) as written:
            unfed = self.next_turn(written)
            going = self._begin(message, unfed)
            ids, sampler = (*unfed.answer, *unfed.turn), make_sampler(self._sampling, self._random)
            try:
                for token in generate(self.stream, ids, self._sampling, max_new_tokens, sampler=sampler):
                    going.ended = token.id in self.stream.manifest.eos_ids
                    self._unfed = Unfed(self.stream.position, () if going.ended else (token.id,))
                    going.text.append(token.text)
                    self._tell(token)
                    yield token
                    if self._open is not going:  # another message came meanwhile, and this answer was cut
                        return
            finally:
                self._finish(going)

    def read(self, message: str, answer: str) -> None:
        """Feed an exchange that was had elsewhere, as if it had been had here; a memory keeps it too.

        Raises:
            BadOption: as `answer`.
        """
        self._feed.check_message(message)
        self._finish(self._open)
        unfed, ids = self.next_turn(message), self.text_ids(answer)
        if self.memory:
            self.memory.expect(self, message)
            unfed = self.next_turn(message)  # a memory may have reserved rows, which begins the stream anew
        going = self._begin(message, unfed)
        try:
            self.stream.feed([*unfed.answer, *unfed.turn, *ids])
            self._unfed = Unfed(self.stream.position)
            going.text.append(answer)
            going.ended = True
        finally:
            self._finish(going)

    async def stream_answer(self, message: str, max_new_tokens: int | None = None) -> AsyncIterator[Token]:
        """`answer` for asyncio: each token is computed in a thread. Cancelled, it ends behind the token being made.

        Use `contextlib.aclosing` around it to stop early at a certain place.
        """
        tokens = self.answer(message, max_new_tokens)
        try:
            while (token := await _in_thread(next, tokens, None)) is not None:
                yield token
        finally:
            tokens.close()  # type: ignore[attr-defined]

    def _begin(self, message: str, unfed: Unfed) -> OpenAnswer:
        if self._journal is not None:
            self._journal.checkpoint(self.stream.position)
            self._undo.append((self._unfed, len(self._turns)))
        if self.evict == "turns":
            self._mark(unfed)
        self._unfed, self._open = unfed, OpenAnswer(message, unfed)
        return self._open

    def _mark(self, unfed: Unfed) -> None:
        """The window may begin with this turn: with its message where what is pinned ends by opening a user's turn."""
        opened = self.stream.sinks == self._feed.head_size and not self.repeats_system
        mark = unfed.message_start if opened else unfed.message_start - unfed.opening
        self.stream.marks = [*(one for one in self.stream.marks if one < unfed.turn_start), mark]

    def _finish(self, going: OpenAnswer | None) -> None:
        """Write into the transcript what of an exchange has come into the stream."""
        if going is None or self._open is not going:
            return
        self._open, unfed, position = None, going.unfed, self.stream.position
        if position <= unfed.turn_start:  # nothing of it was read
            if self._journal is not None:
                self._journal.merge()
                self._undo.pop()
            return
        read = position >= unfed.end
        begin = unfed.message_start - unfed.opening
        made = [Turn("user", going.message, begin, unfed.end if read else max(begin, position), cut=not read)]
        if not self._turns and self.begins_with_system:
            made.insert(0, Turn("system", self.system or "", 0, begin))
        if read:
            end = position + len(self._unfed.answer)
            made.append(Turn("assistant", "".join(going.text), unfed.end, end, cut=not going.ended))
        self._turns += made
        if self.memory is not None:
            self.memory.remember(tuple(made))

    def _tell(self, token: Token) -> None:
        if self.on_token is not None:
            self.on_token(token)
        if self.on_evict is None:
            return
        oldest = self.stream.window_begin
        gone = self._told
        while gone < len(self._turns) and self._turns[gone].end <= oldest:
            gone += 1
        if gone > self._told:
            turns, self._told = tuple(self._turns[self._told : gone]), gone
            self.on_evict(Eviction(self.stream.evicted, turns))

    # ---- going back

    @property
    def undoable(self) -> int:
        """How many of the last exchanges can be taken back."""
        return len(self._journal.positions) if self._journal is not None else 0

    def undo(self) -> str:
        """Take back the last exchange, exactly as if it had never been; its message.

        Raises:
            BadOption: there is none, or what it overwrote is no longer kept.
        """
        self._finish(self._open)
        if not self.undoable:
            asked = sum(turn.role == "user" for turn in self._turns)
            why = "nothing has been said" if not asked else "what it overwrote is no longer kept"
            raise BadOption(f"taking back an exchange, but {why}", "an exchange since the conversation was opened")
        self._undo = self._undo[-self.undoable :]
        self._unfed, count = self._undo.pop()
        message = next(turn.text for turn in self._turns[count:] if turn.role == "user")
        self.stream.go_back()
        del self._turns[count:]
        self._told = min(self._told, count)
        if self.memory is not None:
            self.memory.take_back(self.stream.position)
        return message

    def retry(self, max_new_tokens: int | None = None) -> Iterator[Token]:
        """Take back the last answer and yield another one. A greedy one is the same again."""
        return self.answer(self.undo(), max_new_tokens)

    def edit(self, message: str, max_new_tokens: int | None = None) -> Iterator[Token]:
        """Take back the last exchange and answer this message in its place; BadOption leaves all as it was."""
        self._feed.check_message(message)
        self.undo()
        return self.answer(message, max_new_tokens)

    # ---- keeping

    def save(self, path: Path) -> None:
        """Write the conversation to a file: what the model still remembers, without a transcript."""
        self._finish(self._open)
        if rest := self._unfed.rest(self.stream.position):
            self.stream.feed(rest)
        self._unfed = Unfed(self.stream.position)
        self.stream.save(path)

    def restore(self, path: Path) -> None:
        """Go on from such a file, with an empty transcript; BadSession leaves the conversation as it was."""
        self._finish(self._open)
        self.stream.restore(path)
        self._begin_anew()
        self._unfed = Unfed(self.stream.position)

    @property
    def state(self) -> ChatState:
        """Where the conversation stands, to be held beside the state of the stream."""
        self._finish(self._open)
        return ChatState(
            self.system, self.turns, self._unfed, self._random.state, self._sampling, self.evict,
            tuple(self.stream.marks),
        )  # fmt: skip

    def prepared(self, state: ChatState) -> TurnFeed:
        """What `go_on` wants, while nothing has been changed yet; BadOption if the model has no such turns."""
        self._finish(self._open)
        self._checked_evict(state.evict)
        return self._feed_of(state.system)

    def go_on(self, state: ChatState, feed: TurnFeed) -> None:
        """Take up a conversation whose stream has been restored already; `sampling` stays what it is."""
        self._begin_anew()
        self._feed, self._unfed = feed, state.unfed
        self._turns += state.turns
        self.evict, self.stream.marks = state.evict, list(state.marks)
        self._random.state = state.random

    def take_sampling(self, sampling: SamplingSpec) -> None:
        """Choose answers so from now on, and let the random numbers go on whatever its seed is."""
        self._sampling = sampling


async def _in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns. If it is cancelled, the function has ended before that is told."""
    import asyncio  # its sockets and TLS are nothing that a chat in a terminal needs

    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
