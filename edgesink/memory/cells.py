"""The coarse half of searching by vectors: which cells a passage's tokens are in, for a million tokens at once.

A cell is the nearest of some thousand centres. Codes of new passages lie with them; those of every PACK passages are
put into one blob, so that all of them are read in a few milliseconds and nothing of them stays in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

PACK = 512  # passages
TOGETHER = 32  # packs that are searched at once


@dataclass(frozen=True)
class Codes:
    """The cells of some passages, one after the other."""

    passages: np.ndarray  # int64 [p]
    counts: np.ndarray  # [p], codes of each, 1 or more
    codes: np.ndarray  # uint16 [sum of counts]


def pack_codes(connection: sqlite3.Connection) -> None:
    """Put the codes of new passages into a pack, if there are enough of one space."""
    (packed,) = connection.execute("SELECT coalesce(max(id), 0) FROM pack").fetchone()
    new = connection.execute(
        "SELECT passage, space, codes FROM vectors WHERE passage > ? ORDER BY passage", (packed,)
    ).fetchall()
    if len(new) < PACK:
        return
    for space in sorted({row[1] for row in new}):
        _write(connection, space, [(passage, codes) for passage, own, codes in new if own == space])


def _write(connection: sqlite3.Connection, space: int, rows: Sequence[tuple[int, bytes]]) -> None:
    """One pack, whose number is that of its last passage."""
    counts = np.array([len(codes) // 2 for _, codes in rows], np.uint16)
    connection.execute(
        "INSERT OR REPLACE INTO pack VALUES (?, ?, ?, ?, ?)",
        (
            rows[-1][0], space, np.array([passage for passage, _ in rows], np.int64).tobytes(), counts.tobytes(),
            b"".join(codes for _, codes in rows),
        ),
    )  # fmt: skip


def read_codes(connection: sqlite3.Connection, space: int) -> Iterator[Codes]:
    """All codes of a space, oldest first."""
    packed = 0
    for id_, passages, counts, codes in connection.execute(
        "SELECT id, passages, counts, codes FROM pack WHERE space = ? ORDER BY id", (space,)
    ):
        packed = id_
        yield Codes(
            np.frombuffer(passages, np.int64), np.frombuffer(counts, np.uint16), np.frombuffer(codes, np.uint16)
        )
    (packed,) = connection.execute("SELECT coalesce(max(id), 0) FROM pack").fetchone()
    new = connection.execute(
        "SELECT passage, codes FROM vectors WHERE passage > ? AND space = ? ORDER BY passage", (packed, space)
    ).fetchall()
    if new:
        yield Codes(
            np.array([passage for passage, _ in new], np.int64),
            np.array([len(codes) // 2 for _, codes in new]),
            np.frombuffer(b"".join(codes for _, codes in new), np.uint16),
        )


def joined(packs: Iterator[Codes]) -> Iterator[Codes]:
    """The same in fewer pieces: what is done for each of them costs more than the few megabytes that they are."""
    while some := list(islice(packs, TOGETHER)):
        yield Codes(*(np.concatenate([getattr(one, name) for one in some]) for name in ("passages", "counts", "codes")))


def drop_from_packs(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Take passages out of the packs that have them."""
    if not ids:
        return
    gone = np.array(sorted(ids), np.int64)
    low, high = int(gone[0]), int(gone[-1])
    query = "SELECT id, passages, counts, codes FROM pack WHERE id >= ? ORDER BY id"
    for id_, passages, counts, codes in connection.execute(query, (low,)).fetchall():
        numbers, sizes = np.frombuffer(passages, np.int64), np.frombuffer(counts, np.uint16)
        if numbers[0] > high:
            break
        stays = ~np.isin(numbers, gone)
        if stays.all():
            continue
        if not stays.any():
            connection.execute("DELETE FROM pack WHERE id = ?", (id_,))
            continue
        kept = np.frombuffer(codes, np.uint16)[np.repeat(stays, sizes)]
        connection.execute(
            "UPDATE pack SET passages = ?, counts = ?, codes = ? WHERE id = ?",
            (numbers[stays].tobytes(), sizes[stays].tobytes(), kept.tobytes(), id_),
        )


def likely(codes: Codes, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Passages that have a cell near a word of the question, and a bound of how well they fit.

    Args:
        codes: of passages.
        scores: uint8 [q, cells], what a token in a cell counts for each token of the question, 0 where it is far.
    Returns:
        places in `codes.passages` int64 [n], and the sum over the question of the best cell int64 [n].
    """
    is_near = scores.any(axis=0)[codes.codes]
    starts = np.cumsum(codes.counts, dtype=np.int64) - codes.counts
    hits = np.add.reduceat(is_near, starts, dtype=np.int64)  # of each passage
    places = np.flatnonzero(hits)
    if not len(places):
        return places, places
    near = codes.codes[is_near]
    begins = np.cumsum(hits[places]) - hits[places]
    total = np.zeros(len(places), np.int64)
    for row in scores:
        total += np.maximum.reduceat(row[near], begins)
    return places, total
