"""Bringing passages back: quoted in the message, or in the pinned rows for one answer.

Owns the words around a quotation, what is pinned, and that the pinned rows are put back. Which passages is `search`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from edgesink.memory.archive import Passage
from edgesink.runtime.pinned import PinnedRows
from edgesink.runtime.session import Stream
from edgesink.runtime.tokenizer import Tokenizer

Way = Literal["quoted", "pinned"]

BUDGET = 160  # tokens of a message that quotations may take
TOLD = {"user": "Earlier I told you:", "assistant": "Earlier you said:"}
WISHES = "What I want from now on:"


def quotation(tokenizer: Tokenizer, wishes: Sequence[Passage], found: Sequence[Passage], budget: int = BUDGET) -> str:
    """What is put before a message: standing instructions, and what was told, the older first; "" for nothing.

    Args:
        tokenizer: that counts tokens.
        wishes: standing instructions, the newest of which matter most.
        found: passages, the best first.
        budget: tokens that all of it may take; what does not fit is left out.
    """
    lines: list[tuple[int, int, str]] = []
    for rank, (passage, before) in enumerate(
        [*((wish, WISHES) for wish in reversed(wishes)), *((one, TOLD[one.role]) for one in found)]
    ):
        line = f"{before} “{' '.join(passage.text.split())}”"
        cost = len(tokenizer.encode(line)) + 1
        if cost <= budget:
            budget -= cost
            lines.append((rank >= len(wishes), passage.id, line))
    return "\n".join(line for _, _, line in sorted(lines))


def pinned_ids(
    tokenizer: Tokenizer, first: Sequence[int], wishes: Sequence[Passage], found: Sequence[Passage], sinks: int
) -> list[int] | None:
    """Ids to pin in the place of a stream's first: its true first ones, then passages, over and over to the end.

    Repeating them is emphasis, which decides for a small model. None if not even one passage fits.
    """
    room = sinks - len(first)
    kept: list[list[int]] = []
    for passage in [*found, *reversed(wishes)]:
        ids = tokenizer.encode(" ".join(passage.text.split()) + "\n")
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
