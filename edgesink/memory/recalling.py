"""Bringing passages back: quoted in the message, or in the pinned rows for one answer.

Owns the words around a quotation, what is pinned, and that the pinned rows are put back. Which passages is `search`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

from edgesink.memory.archive import Passage, Role
from edgesink.runtime.pinned import PinnedRows
from edgesink.runtime.session import Stream
from edgesink.runtime.tokenizer import Tokenizer

Way = Literal["quoted", "pinned"]

BUDGET = 160  # tokens of a message that quotations may take
TOLD = {"user": "I told you:", "assistant": "You said:"}
WISHES = "What I want from now on:"


def quoted(
    tokenizer: Tokenizer, message: str, wishes: Sequence[Passage], found: Sequence[Passage], budget: int = BUDGET
) -> str:
    """A message with standing instructions before it, and behind it what was told, the best last: nearest the answer.

    Args:
        tokenizer: that counts tokens.
        message: as it was said.
        wishes: standing instructions, the newest of which matter most.
        found: passages, the best first.
        budget: tokens that all of it may take; what does not fit is left out.
    """
    before: list[tuple[int, str]] = []
    for wish in reversed(wishes):
        line = f"{WISHES} “{_in_one_line(wish)}”"
        if (cost := len(tokenizer.encode(line)) + 1) <= budget:
            budget -= cost
            before.append((wish.id, line))
    told: list[tuple[Role, str]] = []
    for passage in found:
        text = _in_one_line(passage)
        if (cost := len(tokenizer.encode(f" ({TOLD[passage.role]} {text})"))) <= budget:
            budget -= cost
            told.insert(0, (passage.role, text))
    lines = [line for _, line in sorted(before)]
    groups = groupby(told, key=lambda one: one[0])
    behind = "".join(f" ({TOLD[role]} {' '.join(text for _, text in group)})" for role, group in groups)
    return "\n".join([*lines, *([""] if lines else []), message + behind])


def place_in(written: str, message: str) -> int:
    """Where a message begins in what was fed for it, quotations included; -1 if it is not there as it was said."""
    behind = written.find("\n\n") if written.startswith(WISHES) else 0  # each instruction is one line
    found = written.find(message, max(0, behind))
    return found if found >= 0 else written.find(message)


def _in_one_line(passage: Passage) -> str:
    return " ".join(passage.text.split())


def pinned_ids(
    tokenizer: Tokenizer, first: Sequence[int], wishes: Sequence[Passage], found: Sequence[Passage], sinks: int
) -> list[int] | None:
    """Ids to pin in the place of a stream's first: its true first ones, then passages, over and over to the end.

    Repeating them is emphasis, which decides for a small model. None if not even one passage fits.
    """
    room = sinks - len(first)
    kept: list[list[int]] = []
    for passage in [*found, *reversed(wishes)]:
        ids = tokenizer.encode(_in_one_line(passage) + "\n")
        if sum(map(len, kept)) + len(ids) <= room:
            kept.insert(0, ids)
    if not kept:
        return None
    once = [id_ for ids in kept for id_ in ids]
    filled = once * (room // len(once))
    return [*first, *once[len(once) - (room - len(filled)) :], *filled] if room > len(filled) else [*first, *filled]


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
