"""One answer: reads what is new, then says token after token, in steps between which others take theirs.

Owns what becomes of the conversation however the answer ends: by itself, by a stop string or a limit, by a client that
left, or by an error. Knows no JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from edgesink.runtime.generate import Token, generate
from edgesink.runtime.sampling import SamplingSpec
from edgesink.runtime.session import Stream
from edgesink.serve.choosing import Chance, Chooser
from edgesink.serve.conversations import Conversation
from edgesink.serve.prompts import ChatPrompt, Prompt
from edgesink.serve.remembering import Brought
from edgesink.serve.scheduler import TooLate

FinishReason = Literal["stop", "length"]
Steps = Generator[None, None, None]


@dataclass(frozen=True)
class Wanted:
    """How the answer is to be."""

    sampling: SamplingSpec
    max_tokens: int
    stop: tuple[str, ...] = ()
    chances: int | None = None  # tokens that might have been said in the place of each, to be told with their chances
    matcher: Callable[[], Any] | None = None  # makes what keeps the answer in a grammar
    marks: Mapping[int, str] = field(default_factory=dict)  # special tokens that count as text, how they are spelled
    recall: bool = True  # whether something may come back for it, where the server has memories


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer."""

    prompt: int  # that the answer goes on from, from the beginning of the conversation
    cached: int  # of them, those that had been read before
    answer: int


@dataclass(frozen=True)
class Begun:
    """The conversation is found or made; what is new to it will be read."""

    status: dict[str, Any]  # of the conversation


@dataclass(frozen=True)
class Recalled:
    """It was looked whether something belongs to the last message."""

    status: dict[str, Any]  # of the conversation, with what came back
    brought: Brought


@dataclass(frozen=True)
class Delta:
    """One more token of the answer, or its last text."""

    text: str
    chance: Chance | None = None


@dataclass(frozen=True)
class Finished:
    """The end of an answer."""

    reason: FinishReason
    usage: Usage
    status: dict[str, Any]  # of the conversation
    key: str  # by which it is found again


Event = Begun | Recalled | Delta | Finished | Exception
Emit = Callable[[Event], None]


def reply(conversation: Conversation, read: int, prompt: Prompt, wanted: Wanted, emit: Emit) -> Steps:
    """Go on from a prompt, of which the conversation has read so much already."""
    stream = conversation.stream
    before, last = prompt.ids(read)
    if not (conversation.unfed or before or last):  # all has been read, and there are no logits of it any more
        read, (before, last) = 0, prompt.ids(0)
    cached = stream.position if read else 0
    if not read:
        stream.reset(prompt.sinks())
        conversation.unfed, conversation.before = (), None
    conversation.brought = Brought()
    emit(Begun(conversation.status()))
    yield from _read(conversation, prompt, read, before)
    if key := prompt.key_between():
        conversation.remember(key)
    with _quoting(conversation, prompt, last, wanted.recall) as (turn, brought):
        if brought.seconds:
            conversation.brought = brought
            emit(Recalled(conversation.status(), brought))
        try:
            ids = [*conversation.unfed, *turn]
            conversation.unfed = ()
            yield from feed(stream, ids[:-1])
        except BaseException:  # the message was not read to its end: it was not read
            if conversation.before is not None:
                conversation.go_back(conversation.before)
            if conversation.memory is not None:
                conversation.memory.take_back()
            raise
        yield from _say(conversation, ids[-1:], prompt, wanted, cached, emit)


def _read(conversation: Conversation, prompt: Prompt, read: int, before: Sequence[int]) -> Steps:
    """Read what was said before the last message, where that is not known yet: `before`, as ids."""
    memory = conversation.memory
    if memory is None or not isinstance(prompt, ChatPrompt):
        if before:
            ids = [*conversation.unfed, *before]
            conversation.unfed = ()
            yield from feed(conversation.stream, ids)
        return
    if not read:
        yield from feed(conversation.stream, prompt.head())
    for place in range(max(0, read - 1), prompt.last):
        ids, turn = memory.read(prompt, place, conversation.unfed)
        conversation.unfed = ()
        yield from feed(conversation.stream, ids)
        memory.heard(prompt, place, prompt.history.answers[place], turn)


def _quoting(
    conversation: Conversation, prompt: Prompt, last: Sequence[int], looks: bool
) -> AbstractContextManager[tuple[Sequence[int], Brought]]:
    """The ids of the last message's turn, with quotations where the conversation has a memory."""
    if conversation.memory is None or not isinstance(prompt, ChatPrompt):
        return nullcontext((last, Brought()))
    return conversation.memory.quoting(prompt, conversation.unfed, looks)


def feed(stream: Stream, ids: Sequence[int]) -> Steps:
    """Feed ids, a step a chunk."""
    start, chunk = 0, stream.manifest.stream.chunk
    while start < len(ids):
        size = max(1, chunk - len(stream.manifest.prefix)) if stream.position == 0 else chunk
        stream.feed(ids[start : start + size])
        start += size
        yield


def _say(
    conversation: Conversation, ids: Sequence[int], prompt: Prompt, wanted: Wanted, cached: int, emit: Emit
) -> Steps:
    """Feed the last id of a prompt and emit what the model says."""
    stream = conversation.stream
    size = stream.position + len(ids)
    answer = _Answer(tuple(ids))
    chooser = Chooser(wanted.sampling, wanted.matcher() if wanted.matcher else None, wanted.chances)
    tokens = cast(
        Generator[Token, None, None],
        generate(stream, ids, wanted.sampling, wanted.max_tokens, wanted.stop, sampler=chooser),
    )
    try:
        for token in tokens:
            text = answer.add(token, wanted, token.id in stream.manifest.eos_ids)
            emit(Delta(text, None if answer.ended else chooser.chance))
            yield
        reason: FinishReason = "stop" if answer.ended or len(answer.ids) < wanted.max_tokens else "length"
    except TooLate:
        reason = "length"
    finally:
        tokens.close()
        conversation.unfed = answer.unfed
        conversation.key = prompt.key_after("".join(answer.texts), answer.ids[: len(answer.ids) - answer.ended])
        if conversation.memory is not None:
            conversation.memory.keep("".join(answer.texts))
    emit(Finished(reason, Usage(size, cached, len(answer.ids)), conversation.status(), conversation.key))


class _Answer:
    """What was said so far."""

    def __init__(self, unfed: tuple[int, ...]) -> None:
        self.unfed = unfed  # ids that are not in the stream
        self.texts: list[str] = []
        self.ids: list[int] = []
        self.ended = False

    def add(self, token: Token, wanted: Wanted, is_end: bool) -> str:
        """One more token; its text."""
        self.ended = is_end
        self.unfed = () if is_end else (token.id,)
        text = wanted.marks.get(token.id, "") + token.text
        self.texts.append(text)
        self.ids.append(token.id)
        return text
