"""The model itself as the judge of what belongs to a message: how much likelier the message is behind a passage.

A passage that answers a question makes the question likelier than one that does not, in whatever words it is asked
(query likelihood). Owns this measurement; `asking` feeds the message, and takes all of it back. What follows from it
is `search`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence

import numpy as np

from edgesink.errors import BadOption
from edgesink.runtime.session import Stream

MOST_MESSAGE = 24  # tokens of a message that are judged, its first
FEWEST_ROOM = 8  # tokens of a passage that must fit in a chunk with the message; with fewer nothing is judged


class Judge:
    """Judges passages for one message.

    Args:
        stream: that is talked in, before the message.
        head: what would be fed before the message.
        message: its ids.
        encode: ids of a passage, with no control token; BadOption for one that cannot be without.
    """

    def __init__(
        self, stream: Stream, head: Sequence[int], message: Sequence[int], encode: Callable[[str], list[int]]
    ) -> None:
        self._stream, self._encode, self._head = stream, encode, head
        self._message = message[:MOST_MESSAGE]
        self._is_whole = len(message) <= MOST_MESSAGE
        kept = len(head) if stream.position else 0  # at a start nothing has to be taken back token by token
        self.room = stream.manifest.stream.chunk - kept - len(self._message) + 1
        """Tokens of a passage that are read at most: with what stays before it, it must fit in a chunk."""
        self._without: float | None = None

    @property
    def can_judge(self) -> bool:
        """Whether the bundle gives logits for several tokens of a pass, and the message leaves room for a passage."""
        fits = self._stream.most_rows > len(self._message) > 0 and self.room >= FEWEST_ROOM
        return fits and len(self._head) > 0

    @property
    def rows(self) -> int:
        """Rows of logits to ask for when head and message are fed; 1 where they are of no use."""
        return len(self._message) + 1 if self.can_judge and self._is_whole else 1

    def hear(self, logits: np.ndarray) -> None:
        """Take the logits of head and message, float32 [rows, V]: how likely the message is by itself."""
        if self.rows > 1:
            self._without = self._nats(logits[:-1])

    def gains(self, passages: Iterable[str]) -> Generator[float]:
        """For each passage, as it is asked for, how much likelier it makes the message: nats a token, below 0 if less
        likely, -inf for one that cannot be encoded.

        Only where `can_judge`, and while the stream stands behind the head. It does so again after each.
        """
        if self._without is None:
            self._stream.rewind(1)
            self._without = self._behind(self._head[-1:], stay=1)
        for passage in passages:
            try:
                ids = self._encode(" ".join(passage.split()) + "\n")[: self.room]
            except BadOption:
                yield -math.inf
            else:
                yield self._without - self._behind(ids)

    def _behind(self, before: Sequence[int], stay: int = 0) -> float:
        """What the message costs behind some ids, one or more, the first `stay` of which are left in the stream."""
        ids = (*before, *self._message[:-1])
        logits = self._stream.feed_all(ids, len(self._message))
        self._stream.rewind(len(ids) - stay)
        return self._nats(logits)

    def _nats(self, logits: np.ndarray) -> float:
        """How much a token of the message surprises the model, the mean, by float32 logits [tokens, V]."""
        top = logits.max(axis=1)
        others = np.log(np.exp(logits - top[:, None]).sum(axis=1, dtype=np.float64))
        return float(np.mean(others + top - logits[np.arange(len(logits)), list(self._message)]))
