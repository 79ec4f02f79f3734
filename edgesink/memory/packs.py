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
        blob = eight_bits([mean for _, mean in mine], "a mean").tobytes()
        connection.execute("INSERT INTO pack VALUES (?, ?, ?, ?)", (mine[-1][0], space, numbers.tobytes(), blob))


def read_means(connection: sqlite3.Connection, space: int) -> Iterator[Means]:
    """All mean vectors of a space, oldest first."""
    query = "SELECT id, passages, means FROM pack WHERE space = ? ORDER BY id"
    for id_, passages, means in connection.execute(query, (space,)):
        yield _means(id_, passages, means)
    (packed,) = connection.execute("SELECT coalesce(max(id), 0) FROM pack").fetchone()
    new = connection.execute(
        "SELECT passage, mean FROM vectors WHERE passage > ? AND space = ? ORDER BY passage", (packed, space)
    ).fetchall()
    if new:
        numbers = np.array([passage for passage, _ in new], np.int64)
        yield Means(numbers, eight_bits([mean for _, mean in new], "a mean"))


def drop_from_packs(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Take passages out of the packs that have them."""
    if not ids:
        return
    gone = np.array(sorted(ids), np.int64)
    query = "SELECT id, passages, means FROM pack WHERE id >= ? ORDER BY id"
    for id_, passages, means in connection.execute(query, (int(gone[0]),)).fetchall():
        pack = _means(id_, passages, means)
        stays = ~np.isin(pack.passages, gone)
        if stays.all():
            continue
        if not stays.any():
            connection.execute("DELETE FROM pack WHERE id = ?", (id_,))
            continue
        numbers, vectors = pack.passages[stays], pack.vectors[stays]
        connection.execute(
            "UPDATE pack SET passages = ?, means = ? WHERE id = ?", (numbers.tobytes(), vectors.tobytes(), id_)
        )


def eight_bits(blobs: Sequence[object], what: str, width: int | None = None) -> np.ndarray:
    """Vectors that the database has, int8 [n, d]: of blobs with one each, or of a given width d with any number each.

    Raises:
        sqlite3.DatabaseError: they cannot be that; `archive_file.database_errors` says which file is damaged.
    """
    found: list[bytes] = []
    for blob in blobs:
        if not isinstance(blob, bytes) or not blob:
            raise sqlite3.DatabaseError(f"{what} is no vector")
        if len(blob) % width if width else found and len(blob) != len(found[0]):
            raise sqlite3.DatabaseError(f"{what} has {len(blob)} numbers, which are not of {width or len(found[0])}")
        found.append(blob)
    return np.frombuffer(b"".join(found), np.int8).reshape(-1, width or len(found[0]))


def _means(id_: int, passages: object, means: object) -> Means:
    """What a pack has; sqlite3.DatabaseError if it is none."""
    if not isinstance(passages, bytes) or not isinstance(means, bytes) or not passages or len(passages) % 8:
        raise sqlite3.DatabaseError(f"pack {id_} has no passages")
    numbers = np.frombuffer(passages, np.int64)
    return Means(numbers, eight_bits([means], f"pack {id_}", len(means) // len(numbers) or 1))
