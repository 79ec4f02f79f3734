"""A message as the model sees it: fed, its value rows read, and taken back, exactly as if it had never been fed.

Owns which of its tokens are fed: the last ones, at most a chunk, for no more can be taken back.
"""

from __future__ import annotations

from edgesink.memory.calibration import Calibration
from edgesink.memory.search import AsFed, Asked
from edgesink.memory.spoken import Spoken
from edgesink.runtime.chat import Chat
from edgesink.runtime.session import Stream
from edgesink.runtime.turn_feed import Unfed
from edgesink.turns import Turns


def ask(stream: Stream, made: Calibration, message: str, unfed: Unfed) -> Asked:
    """What is needed to look for what belongs to a message.

    Args:
        stream: that is talked in.
        made: says which layers are read.
        message: as it was said.
        unfed: what would be fed for it.
    """
    ids = unfed.turn[: unfed.before + unfed.message_size][-stream.manifest.stream.chunk :]
    size, begins = min(len(ids), unfed.message_size), stream.position == 0
    stream.feed(ids)
    end, numbers = stream.position, made.numbers
    rows, gate_rows = (stream.values(layer, end - size, end) for layer in (numbers.layer, numbers.gate_layer))
    if begins:
        stream.reset()
    else:
        stream.rewind(len(ids))
    return Asked(message, AsFed(Spoken.of(stream.tokenizer, ids[len(ids) - size :]), rows, gate_rows))


def ask_alone(stream: Stream, made: Calibration, message: str) -> Asked:
    """The same in a stream that is at its start, outside any conversation."""
    chat = Chat(stream, demanded_system(stream.manifest.turns), pin="none")
    return ask(stream, made, message, chat.next_turn(message))


def demanded_system(turns: Turns | None) -> str | None:
    """A system prompt that says little, for a model whose turns demand one; else None."""
    return "Be helpful." if turns is not None and turns.without_system is None else None
