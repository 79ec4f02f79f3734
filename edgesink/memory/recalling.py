"""Bringing passages back: quoted in the message, or in the pinned rows for one answer.

Owns the words around a quotation, what is pinned, and that the pinned rows are put back. Which passages is `search`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Literal

from edgesink.errors import BadOption
from edgesink.memory.archive import Passage
from edgesink.runtime.pinned import PinnedRows
from edgesink.runtime.session import Stream
from edgesink.runtime.tokenizer import Tokenizer

Way = Literal["quoted", "pinned"]

BUDGET = 160  # tokens of a message that quotations may take
TOLD = {"user": "I told you:", "assistant": "You said:"}
WISHES = "What I want from now on:"


def fitting(
    tokenizer: Tokenizer, wishes: Sequence[Passage], found: Sequence[Passage], budget: int = BUDGET
) -> tuple[list[Passage], list[Passage]]:
    """The standing instructions and the passages that a message has room for, each in their order.

    Args:
        tokenizer: that counts tokens.
        wishes: standing instructions, the newest of which matter most.
        found: passages, the best first.
        budget: tokens that all of it may take.
    """
    kept: list[Passage] = []
    for wish in reversed(wishes):
        if (cost := len(tokenizer.encode(_wish(wish))) + 1) <= budget:
            budget -= cost
            kept.append(wish)
    told: list[Passage] = []
    for passage in found:
        if (cost := len(tokenizer.encode(f" ({TOLD[passage.role]} {_in_one_line(passage)})"))) <= budget:
            budget -= cost
            told.append(passage)
    return [wish for wish in wishes if wish in kept], told


def quoted(message: str, wishes: Sequence[Passage], found: Sequence[Passage]) -> str:
    """A message with instructions before it, and behind it what was told, the best last: nearest the answer."""
    lines = [_wish(wish) for wish in sorted(wishes, key=lambda one: one.id)]
    groups = groupby(reversed(found), key=lambda one: one.role)
    behind = "".join(f" ({TOLD[role]} {' '.join(map(_in_one_line, group))})" for role, group in groups)
    return "\n".join([*lines, *([""] if lines else []), message + behind])


def place_in(written: str, message: str) -> int:
    """Where a message begins in what was fed for it, quotations included; -1 if it is not there as it was said."""
    behind = written.find("\n\n") if written.startswith(WISHES) else 0  # each instruction is one line
    found = written.find(message, max(0, behind))
    return found if found >= 0 else written.find(message)


def _wish(passage: Passage) -> str:
    return f"{WISHES} “{_in_one_line(passage)}”"


def _in_one_line(passage: Passage) -> str:
    return " ".join(passage.text.split())


def pinned_ids(
    encode: Callable[[str], list[int]],
    first: Sequence[int],
    wishes: Sequence[Passage],
    found: Sequence[Passage],
    sinks: int,
) -> tuple[list[int], list[Passage]]:
    """Ids to pin in the place of a stream's first: its true first ones, then passages, over and over to the end; and
    the passages, those for which there is room.

    Repeating them is emphasis, which decides for a small model. A passage that cannot be encoded is left out. No ids if
    not even one fits.
    """
    room = sinks - len(first)
    kept: list[list[int]] = []
    passages: list[Passage] = []
    for passage in [*found, *reversed(wishes)]:
        try:
            ids = encode(_in_one_line(passage) + "\n")
        except BadOption:
            continue
        if sum(map(len, kept)) + len(ids) <= room:
            kept.insert(0, ids)
            passages.append(passage)
    if not kept:
        return [], []
    once = [id_ for ids in kept for id_ in ids]
    filled = once * (room // len(once))
    return [*first, *once[len(once) - (room - len(filled)) :], *filled], passages


class PinnedFor:
    """Pinned rows that are others for the time of one answer."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._before: PinnedRows | None = None

    def pin(self, ids: Sequence[int]) -> None:
        """Exchange them; what stood there is kept. Nothing may be exchanged already."""
        assert self._before is None
        self._before = self._stream.repin(ids)

    def put_back(self) -> None:
        """What stood there, bit for bit; nothing if nothing was exchanged."""
        if self._before is not None:
            self._stream.put_pinned_rows(self._before)
            self._before = None
