"""A message as the model sees it: fed, looked at, and taken back, exactly as if it had never been fed.

Owns which of its tokens are fed: the last ones, at most a chunk, for no more can be taken back; and that the stream is
as it was afterwards, whatever happens. What of it says something about a passage is `judging`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgesink.memory.calibration import Calibration
from edgesink.memory.judging import Judge
from edgesink.memory.search import AsFed, Asked, Gains
from edgesink.memory.spoken import Spoken
from edgesink.runtime.chat import Chat
from edgesink.runtime.session import Stream
from edgesink.runtime.turn_feed import Unfed
from edgesink.turns import Turns


@contextmanager
def asking(
    stream: Stream, made: Calibration, message: str, unfed: Unfed, encode: Callable[[str], list[int]] | None = None
) -> Iterator[tuple[Asked, Gains | None]]:
    """What is needed to look for what belongs to a message, and a judge of passages while this is entered.

    Args:
        stream: that is talked in.
        made: says which layers are read.
        message: as it was said.
        unfed: what would be fed for it.
        encode: ids of a passage, with no control token; BadOption for one that cannot be without. None asks for no
            judge. There is none where the bundle or the message does not allow it.
    """
    ids = unfed.turn[: unfed.before + unfed.message_size][-stream.manifest.stream.chunk :]
    head = len(ids) - min(len(ids), unfed.message_size)
    start = stream.position
    judge = None if encode is None else Judge(stream, head, ids[head:], encode)
    try:
        logits = stream.feed_all(ids, judge.rows if judge else 1)
        if judge:
            judge.hear(logits)
        end, numbers = stream.position, made.numbers
        rows, gate_rows = (
            stream.values(layer, end - len(ids) + head, end) for layer in (numbers.layer, numbers.gate_layer)
        )
        stream.rewind(len(ids) - head)
        asked = Asked(message, AsFed(Spoken.of(stream.tokenizer, ids[head:]), rows, gate_rows))
        yield asked, judge.gains if judge and judge.can_judge else None
    finally:
        if start:
            stream.rewind(stream.position - start)
        else:
            stream.reset()


def ask_alone(stream: Stream, made: Calibration, message: str) -> Asked:
    """The same in a stream that is at its start, outside any conversation, with no judge."""
    chat = Chat(stream, demanded_system(stream.manifest.turns), pin="none")
    with asking(stream, made, message, chat.next_turn(message)) as (asked, _):
        return asked


def demanded_system(turns: Turns | None) -> str | None:
    """A system prompt that says little, for a model whose turns demand one; else None."""
    return "Be helpful." if turns is not None and turns.without_system is None else None
