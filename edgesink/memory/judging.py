"""The model itself as the judge of what belongs to a message: how much likelier the message is behind a passage.

A passage that answers a question makes the question likelier than one that does not, in whatever words it is asked
(query likelihood). The first token does not count: how likely it is tells only whether a message can begin there, which
differs by more than all others tell. Owns this measurement; `asking` feeds the message, and takes all of it back. What
follows from it is `search`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence

import numpy as np

from edgesink.errors import BadOption
from edgesink.runtime.session import Stream

MOST_MESSAGE = 24  # tokens of a message that are judged, its first
MOST_GAIN = 2.0  # nats that one token counts at most, up or down: a single odd one would outweigh the others
FEWEST_ROOM = 8  # tokens of a passage that must fit in a chunk with the message; with fewer nothing is judged


class Judge:
    """Judges passages for one message.

    Args:
        stream: that is talked in, before the message.
        head: tokens that are fed before the message.
        message: its ids.
        encode: ids of a passage, with no control token; BadOption for one that cannot be without.
    """

    def __init__(self, stream: Stream, head: int, message: Sequence[int], encode: Callable[[str], list[int]]) -> None:
        self._stream, self._encode = stream, encode
        self._message = message[:MOST_MESSAGE]
        self._is_whole = len(message) <= MOST_MESSAGE
        self._has_all = head > 0  # else the beginning of the message is missing
        kept = head if stream.position else 0  # at a start nothing has to be taken back token by token
        self.room = stream.manifest.stream.chunk - kept - len(self._message) + 1
        """Tokens of a passage that are read at most: with what stays before it, it must fit in a chunk."""
        self._without: np.ndarray | None = None

    @property
    def can_judge(self) -> bool:
        """Whether the bundle gives logits for several tokens of a pass, and the message leaves room for a passage."""
        fits = self._stream.most_rows >= len(self._message) > 0 and self.room >= FEWEST_ROOM
        return fits and self._has_all

    @property
    def rows(self) -> int:
        """Rows of logits to ask for when the message is fed; 1 where they are of no use."""
        return len(self._message) if self.can_judge and self._is_whole else 1

    def hear(self, logits: np.ndarray) -> None:
        """Take the logits of the message, float32 [rows, V]: how likely it is by itself."""
        if self.rows > 1:
            self._without = self._nats(logits[:-1])

    def gains(self, passages: Iterable[str]) -> Generator[float]:
        """For each passage, as it is asked for, how much likelier it makes the message: nats a token, below 0 if less
        likely, each token counting 2 at most; 0 for a message of one token; -inf for a passage that cannot be encoded.

        Only where `can_judge`, and while the stream stands behind the head. It does so again after each.
        """
        if len(self._message) == 1:
            yield from (0.0 for _ in passages)
            return
        if self._without is None:
            self._without = self._behind(())
        for passage in passages:
            try:
                ids = self._encode(" ".join(passage.split()) + "\n")[: self.room]
            except BadOption:
                yield -math.inf
            else:
                yield float(np.clip(self._without - self._behind(ids), -MOST_GAIN, MOST_GAIN).mean())

    def _behind(self, before: Sequence[int]) -> np.ndarray:
        """What the tokens of the message cost behind some ids."""
        ids = (*before, *self._message[:-1])
        logits = self._stream.feed_all(ids, len(self._message) - 1)
        self._stream.rewind(len(ids))
        return self._nats(logits)

    def _nats(self, logits: np.ndarray) -> np.ndarray:
        """How much each token of the message but the first surprises the model.

        Args:
            logits: float32 [tokens - 1, V], before each of them.
        """
        top = logits.max(axis=1)
        others = np.log(np.exp(logits - top[:, None]).sum(axis=1, dtype=np.float64))
        nats: np.ndarray = others + top - logits[np.arange(len(logits)), list(self._message[1:])]
        return nats
