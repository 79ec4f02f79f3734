"""A text of any length as ids, read piece by piece in constant memory.

Owns the cutting of files into pieces (at blank lines, so that a word is never cut) and of ids into blocks to score.
A text that is too short is read again from its start. Knows nothing of models.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edgesink.errors import BadOption

PIECE = 1 << 16  # characters, about


class Encoder(Protocol):
    """The part of a tokenizer that the measurements use."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens."""


@dataclass(frozen=True)
class Block:
    """Ids of the text from position `start` on, and for each of them the id that follows."""

    start: int
    ids: np.ndarray  # int64 [n]
    targets: np.ndarray  # int64 [n]


class Text:
    """Files one after the other as ids; those of `first`, a sink token or a begin-of-sequence id, stand in front once.

    After the first `keep` ids, `skip` are left out: a stream begins with the same sinks, and goes on further on.
    """

    def __init__(
        self, files: Sequence[Path], encoder: Encoder, first: Sequence[int] = (), skip: int = 0, keep: int = 0
    ) -> None:
        for file in files:
            if not file.is_file():
                raise BadOption(f"no file {file}", "a UTF-8 text file")
        self.files, self._encoder, self._first = list(files), encoder, first
        self._skip, self._keep = skip, keep

    def count(self) -> int:
        """Ids that follow another in one reading."""
        count = sum(len(ids) for ids in self._pieces(again=False)) - 1
        if count < 1:
            raise BadOption(f"--skip {self._skip} leaves nothing of the text", "a text longer than that")
        return count

    def blocks(self, tokens: int, size: int, start: int = 0) -> Iterator[Block]:
        """The first `tokens` ids that have a follower, from `start` on, `size` at a time; read again as needed."""
        pending, place = np.empty(0, np.int64), 0  # ids not yet yielded, and the position of the first
        for piece in self._pieces(again=True):
            pending = np.concatenate([pending, piece])
            if place < start:
                skipped = min(start - place, len(pending))
                pending, place = pending[skipped:], place + skipped
            while len(pending) > min(size, tokens - place) and place < tokens and place >= start:
                length = min(size, tokens - place)
                yield Block(place, pending[:length], pending[1 : length + 1])
                pending, place = pending[length:], place + length
            if place >= tokens:
                return

    def endless(self) -> Iterator[int]:
        """Every id, endlessly."""
        for piece in self._pieces(again=True):
            yield from piece.tolist()

    def _pieces(self, again: bool) -> Iterator[np.ndarray]:
        yield np.array(self._first, np.int64)
        read = 0
        for file in itertools.cycle(self.files) if again else self.files:
            empty = True
            for text in _paragraphs(file):
                empty = False
                ids = np.array(self._encoder.encode(text), np.int64)
                places = np.arange(read, read + len(ids))
                yield ids[(places < self._keep) | (places >= self._keep + self._skip)]
                read += len(ids)
            if empty:
                raise BadOption(f"{file} is empty", "a UTF-8 text file")


def _paragraphs(file: Path) -> Iterator[str]:
    """The text of `file` in pieces of at least PIECE characters that end with a blank line."""
    lines: list[str] = []
    size = 0
    try:
        with file.open(encoding="utf-8") as source:
            for line in source:
                lines.append(line)
                size += len(line)
                if size >= PIECE and not line.strip():
                    yield "".join(lines)
                    lines, size = [], 0
    except UnicodeDecodeError as error:
        raise BadOption(f"{file} is not UTF-8 text ({error})", "a UTF-8 text file") from None
    if lines:
        yield "".join(lines)
