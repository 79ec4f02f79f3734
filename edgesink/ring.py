"""Where token n of an endless stream lives in a buffer of fixed size, and what it sees.

Owns the integer arithmetic of the attention-sink + window ring (StreamingLLM, Xiao et al. 2023, section 3.2)
and nothing else: no tensors, no models. `tests/golden/ring.json` holds values written by hand; the exported
graphs and the Swift package are held to the same file.

The buffer has one row per slot. Rows 0 … sinks-1 keep the first tokens forever, the other `slots` rows are a
ring. Up to `chunk` tokens are written at once and attended after, so the ring holds window + chunk - 1 rows: the
first query of a chunk still needs a full window of keys while the last token of the chunk is already written.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgesink.errors import BadOption


@dataclass(frozen=True)
class Ring:
    """The ring of one stream: `sinks` is chosen when the stream starts, the rest when the model is exported."""

    sinks: int  # S, pinned first tokens, 0 … capacity - chunk
    capacity: int  # C, tokens seen at most, the current one included
    chunk: int = 1  # T, most tokens written at once

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise BadOption(f"chunk = {self.chunk}", "at least 1")
        if self.sinks < 0:
            raise BadOption(f"sinks = {self.sinks}", "0 or more")
        if self.window < self.chunk:
            raise BadOption(
                f"a window of {self.window} tokens (capacity {self.capacity} - sinks {self.sinks})",
                f"at least one chunk, {self.chunk} tokens",
                "take fewer sinks, or export with a larger window or a smaller chunk",
            )

    @property
    def window(self) -> int:
        """W: the most recent tokens that a token sees, itself included."""
        return self.capacity - self.sinks

    @property
    def slots(self) -> int:
        """R: rows of the ring, window + chunk - 1."""
        return self.window + self.chunk - 1

    @property
    def rows(self) -> int:
        """Rows of the whole buffer; the same for every number of sinks."""
        return self.capacity + self.chunk - 1

    def slot(self, token: int) -> int:
        """The buffer row that `token` is written to."""
        return token if token < self.sinks else self.sinks + (token - self.sinks) % self.slots

    def held(self, slot: int, position: int) -> int | None:
        """The token that `slot` holds once tokens 0 … position-1 are written; None if it was never written."""
        if slot < self.sinks:
            return slot if slot < position else None
        newest = position - 1 - self.sinks
        token = newest - (newest - (slot - self.sinks)) % self.slots
        return self.sinks + token if token >= 0 else None

    def visible(self, token: int) -> list[int]:
        """The tokens that `token` sees, in order: the sinks, then the window up to and including itself."""
        first = max(self.sinks, token - self.window + 1)
        return [*range(min(self.sinks, token + 1)), *range(first, token + 1)]

    def window_begin(self, token: int, marks: Sequence[int] = (), most_hidden: int = 0) -> int:
        """The oldest token of the window that `token` sees; sinks are no part of it.

        Args:
            marks: tokens that a window may well begin with, ascending: the first words of turns. Nothing is preferred
                before the first eviction.
            most_hidden: tokens of the window that are given up at most for the sake of beginning with one.
        """
        first = max(self.sinks, token - self.window + 1)
        if first == self.sinks:
            return min(first, token)
        place = bisect_left(marks, first)
        is_near = place < len(marks) and marks[place] <= min(token, first + most_hidden)
        return marks[place] if is_near else first

    def query_position(self, token: int) -> int:
        """The in-cache position of `token` as a query: how many tokens it sees, minus one."""
        return min(token, self.capacity - 1)

    def frame(self, token: int) -> int:
        """A stand-in for `token` below sinks + 2 slots, with the same slot and the same visible slots.

        It counts up through the first lap and then round and round through the second, so a graph that
        cannot hold large integers can be driven by it endlessly.
        """
        end = self.sinks + self.slots
        return token if token < end else end + (token - end) % self.slots

    def evicted(self, position: int) -> int:
        """How many of the tokens 0 … position-1 the newest of them no longer sees."""
        return max(0, position - self.capacity)

    def oldest_return(self, furthest: int) -> int:
        """The lowest position that a stream which reached `furthest` may go back to, as if it had not gone on.

        Token furthest-1 overwrote token furthest-1-slots. The first query after going back to n looks for none before
        n-window+1, so n may be furthest-(slots-window+1) = furthest-chunk; one less, and a key that it wants is gone.
        """
        return max(0, furthest - (self.slots - self.window + 1))

    def chunks(self, length: int) -> Iterator[int]:
        """Sizes of the pieces that a run of `length` tokens is fed in."""
        while length > 0:
            yield min(length, self.chunk)
            length -= self.chunk
