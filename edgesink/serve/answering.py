"""One answer: reads what is new, then says token after token, in steps between which others take theirs.

Owns what happens to the conversation however the answer ends: by itself, by a stop string or a limit, by a client that
left, or by an error. Knows no JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgesink.runtime.generate import generate
from edgesink.runtime.sampling import Sampler, SamplingSpec
from edgesink.runtime.session import Stream
from edgesink.serve.conversations import Conversation
from edgesink.serve.history import History, TurnWriter, key_after
from edgesink.serve.scheduler import TooLate

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Wanted:
    """How the answer is to be."""

    sampling: SamplingSpec
    max_tokens: int
    stop: tuple[str, ...] = ()


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
class Delta:
    """Some more of the answer."""

    text: str
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finished:
    """Its end."""

    reason: FinishReason
    usage: Usage
    status: dict[str, Any]  # of the conversation


Event = Begun | Delta | Finished | Exception
Emit = Callable[[Event], None]


def reply(
    conversation: Conversation, history: History, read: int, writer: TurnWriter, wanted: Wanted, emit: Emit
) -> Iterator[None]:
    """Answer the last message of a history of which the conversation has read so many exchanges."""
    key = history.keys()[-1]
    stream = conversation.stream
    cached = 0
    if read == 0 and not conversation.unfed:
        stream.reset(writer.pins(history.system) or stream.manifest.stream.sinks)
    else:
        cached = stream.position
    emit(Begun(conversation.status()))
    ids = [*conversation.unfed, *writer.ids(history, read)]
    conversation.unfed = ()
    yield from feed(stream, ids[:-1])
    said: list[str] = []

    def closed(unfed: tuple[int, ...]) -> None:
        conversation.unfed = unfed
        conversation.key = key_after(key, history.users[-1], "".join(said))

    yield from say(conversation, ids[-1:], wanted, cached, emit, said, closed)


def feed(stream: Stream, ids: Sequence[int]) -> Iterator[None]:
    """Feed ids, a step a chunk."""
    start, chunk = 0, stream.manifest.stream.chunk
    while start < len(ids):
        size = chunk - len(stream.manifest.prefix) if stream.position == 0 else chunk
        stream.feed(ids[start : start + size])
        start += size
        yield


def say(
    conversation: Conversation, ids: Sequence[int], wanted: Wanted, cached: int, emit: Emit, said: list[str],
    closed: Callable[[tuple[int, ...]], None], sampler: Sampler | None = None,
) -> Iterator[None]:  # fmt: skip
    """Feed the last ids of a prompt and emit what the model says; `said` gets its texts.

    `closed` is called with the ids that are still to be fed, however the answer ends.
    """
    stream = conversation.stream
    prompt, count, reason = stream.position + len(ids), 0, "length"
    unfed: tuple[int, ...] = tuple(ids)
    tokens = generate(stream, ids, wanted.sampling, wanted.max_tokens, wanted.stop, sampler)
    try:
        for token in tokens:
            count += 1
            is_end = token.id in stream.manifest.eos_ids
            unfed = () if is_end else (token.id,)
            reason = "stop" if is_end or count < wanted.max_tokens else "length"
            said.append(token.text)
            emit(Delta(token.text, (token.id,)))
            yield
    except TooLate:
        reason = "length"
    finally:
        tokens.close()  # type: ignore[attr-defined]
        closed(unfed)
    emit(Finished(reason, Usage(prompt, cached, count), conversation.status()))  # type: ignore[arg-type]
