"""The model itself as the judge of what belongs to a message: how much likelier the message is behind a passage.

A passage that answers a question makes the question likelier than one that does not, in whatever words it is asked
(query likelihood). Owns this measurement: passage and message are fed to the stream, and taken back, exactly as if they
had never been fed. What follows from it is `search`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence

import numpy as np

from edgesink.errors import BadOption
from edgesink.runtime.session import Stream
from edgesink.runtime.turn_feed import Unfed

MOST_MESSAGE = 24  # tokens of a message that are judged, its first
FEWEST_ROOM = 8  # tokens of a passage that must fit in a chunk with the message; with fewer nothing is judged


class Judge:
    """Judges passages for one message.

    Args:
        stream: that is talked in; as it was after every call.
        unfed: what would be fed for the message.
        encode: ids of a passage, with no control token; BadOption for one that cannot be without.
    """

    def __init__(self, stream: Stream, unfed: Unfed, encode: Callable[[str], list[int]]) -> None:
        self._stream, self._encode = stream, encode
        self._head = unfed.turn[: unfed.before]
        self._message = unfed.turn[unfed.before : unfed.before + unfed.message_size][:MOST_MESSAGE]

    @property
    def room(self) -> int:
        """Tokens of a passage that are read at most: what is fed must fit in one pass, which can be taken back."""
        head = len(self._head) if self._stream.position else 1  # at a start the rest of it is fed once
        return self._stream.manifest.stream.chunk - head - len(self._message) + 1

    @property
    def can_judge(self) -> bool:
        """Whether the bundle gives logits for several tokens of a pass, and the message leaves room for a passage."""
        fits = self._stream.most_rows >= len(self._message) > 0 and self.room >= FEWEST_ROOM
        return fits and len(self._head) > 0

    def gains(self, passages: Iterable[str]) -> Generator[float]:
        """For each passage, as it is asked for, how much likelier it makes the message: nats a token, below 0 if less
        likely, -inf for one that cannot be encoded. To be closed before the stream is used.

        Only where `can_judge`.
        """
        stream, room = self._stream, self.room
        begins, head = stream.position == 0, self._head
        try:
            if begins and len(head) > 1:
                stream.feed(head[:-1])
                head = head[-1:]
            without = self._nats(head)
            for passage in passages:
                try:
                    ids = self._encode(" ".join(passage.split()) + "\n")[:room]
                except BadOption:
                    yield -math.inf
                else:
                    yield without - self._nats((*head, *ids))
        finally:
            if begins:
                stream.reset()

    def _nats(self, before: Sequence[int]) -> float:
        """How much a token of the message surprises the model behind some ids, one or more; the mean."""
        ids, rows = (*before, *self._message[:-1]), len(self._message)
        logits = self._stream.feed_all(ids, rows).astype(np.float64)
        self._stream.rewind(len(ids))
        top = logits.max(axis=1)
        right = logits[np.arange(rows), list(self._message)]
        return float(np.mean(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - right))
