"""The coarse half of searching by vectors: one mean vector for each passage, of a million tokens in a few megabytes.

Mean vectors of new passages lie with their other vectors; those of every PACK passages are put into one blob, so that
all of them are read in a few milliseconds and nothing of them stays in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

PACK = 512  # passages


@dataclass(frozen=True)
class Means:
    """The mean vectors of some passages."""

    passages: np.ndarray  # int64 [p], their numbers
    vectors: np.ndarray  # int8 [p, d], of any length


def pack_means(connection: sqlite3.Connection) -> None:
    """Put the mean vectors of new passages into a pack for each space, if there are enough of them."""
    (packed,) = connection.execute("SELECT coalesce(max(id), 0) FROM pack").fetchone()
    new = connection.execute(
        "SELECT passage, space, mean FROM vectors WHERE passage > ? ORDER BY passage", (packed,)
    ).fetchall()
    if len(new) < PACK:
        return
    for space in sorted({row[1] for row in new}):
        mine = [(passage, mean) for passage, own, mean in new if own == space]
        numbers = np.array([passage for passage, _ in mine], np.int64)
        blob = b"".join(mean for _, mean in mine)
        connection.execute("INSERT INTO pack VALUES (?, ?, ?, ?)", (mine[-1][0], space, numbers.tobytes(), blob))


def read_means(connection: sqlite3.Connection, space: int) -> Iterator[Means]:
    """All mean vectors of a space, oldest first."""
    query = "SELECT passages, means FROM pack WHERE space = ? ORDER BY id"
    for passages, means in connection.execute(query, (space,)):
        numbers = np.frombuffer(passages, np.int64)
        yield Means(numbers, np.frombuffer(means, np.int8).reshape(len(numbers), -1))
    (packed,) = connection.execute("SELECT coalesce(max(id), 0) FROM pack").fetchone()
    new = connection.execute(
        "SELECT passage, mean FROM vectors WHERE passage > ? AND space = ? ORDER BY passage", (packed, space)
    ).fetchall()
    if new:
        blob = b"".join(mean for _, mean in new)
        numbers = np.array([passage for passage, _ in new], np.int64)
        yield Means(numbers, np.frombuffer(blob, np.int8).reshape(len(new), -1))


def drop_from_packs(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Take passages out of the packs that have them."""
    if not ids:
        return
    gone = np.array(sorted(ids), np.int64)
    query = "SELECT id, passages, means FROM pack WHERE id >= ? ORDER BY id"
    for id_, passages, means in connection.execute(query, (int(gone[0]),)).fetchall():
        numbers = np.frombuffer(passages, np.int64)
        stays = ~np.isin(numbers, gone)
        if stays.all():
            continue
        if not stays.any():
            connection.execute("DELETE FROM pack WHERE id = ?", (id_,))
            continue
        kept = np.frombuffer(means, np.int8).reshape(len(numbers), -1)[stays]
        connection.execute(
            "UPDATE pack SET passages = ?, means = ? WHERE id = ?", (numbers[stays].tobytes(), kept.tobytes(), id_)
        )
