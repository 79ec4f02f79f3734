"""What was said, passage by passage: added once a turn is finished, found by its words, forgotten for good.

Owns the rows of the database and how large it may grow: what goes first are the vectors of the oldest passages while
vectors take more than half of it, then the oldest passages themselves; standing instructions stay. Vectors are stored
as they come; `packs` reads their means.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Literal

import numpy as np

from edgesink import strict_json
from edgesink.errors import BadOption
from edgesink.files import place_errors
from edgesink.memory import archive_file
from edgesink.memory.packs import drop_from_packs, pack_means

Role = Literal["user", "assistant"]
MOST_BYTES = 256 << 20  # of the file, where nothing else is asked for
FEWEST_BYTES = 1 << 20
LARGEST = 2**63 - 1  # number that SQLite holds
SLACK = 0.05  # of the bytes that are freed beyond what is needed, so that not every turn frees some


@dataclass(frozen=True)
class Passage:
    """A passage as it is kept."""

    id: int
    stream: int
    first: int | None  # position of its first token in that stream; None: no stream has it any more
    last: int | None  # behind its last
    role: Role
    said: float  # seconds since 1970
    standing: bool  # an instruction that holds from now on
    text: str


@dataclass(frozen=True)
class NewPassage:
    """A passage to be kept."""

    first: int
    last: int
    text: str
    standing: bool = False
    tokens: np.ndarray | None = None  # int8 [n, d]: vectors of the tokens that matter
    mean: np.ndarray | None = None  # int8 [d], their mean


class Archive:
    """An archive in a file.

    Args:
        path: of the file, made if there is none.
        most_bytes: how large it may grow.
        make: False refuses to make one.
    Raises:
        BadMemory, BadPlace: as `archive_file.open_file`.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES, make: bool = True) -> None:
        if most_bytes < FEWEST_BYTES:
            raise BadOption(f"a memory of {most_bytes} bytes", f"{FEWEST_BYTES} or more")
        self.path, self.most_bytes = path, most_bytes
        self._connection = archive_file.open_file(path, make)
        self._lock = RLock()

    def close(self) -> None:
        """Leave one whole file behind."""
        self._connection.close()

    def copy(self, path: Path) -> None:
        """Write the archive to another file, which there is none of yet, whole; BadPlace or NoSpace if that fails."""
        with place_errors(path):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with self.reading() as connection, closing(sqlite3.connect(path)) as other:
            connection.backup(other)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time; what SQLite refuses is an EdgesinkError."""
        with self._lock, archive_file.database_errors(self.path):
            yield self._connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing."""
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @property
    def bytes(self) -> int:
        """Of the file, those that are free for what comes next left out."""
        with self.reading() as connection:
            pages, free, size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        return int(size * (pages - free))

    @property
    def count(self) -> int:
        """Passages in it."""
        with self.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM passage").fetchone()[0])

    def begin_stream(self, fingerprint: str, prefix: Sequence[int] = ()) -> int:
        """A new stream, of whose tokens `prefix` are the first; returns its number."""
        with self._writing() as connection:
            return _new_stream(connection, fingerprint, prefix)

    def resume_stream(self, fingerprint: str, position: int) -> tuple[int, tuple[int, ...]]:
        """The newest stream, taken up again at `position`, and its first ids; one of another bundle is left alone.

        What it had said behind that position is in no stream any more: the session was saved before.
        """
        with self._writing() as connection:
            row = connection.execute("SELECT id, fingerprint, prefix FROM stream ORDER BY id DESC LIMIT 1").fetchone()
            if row is None or row[1] != fingerprint:
                return _new_stream(connection, fingerprint), ()
            prefix = _prefix(row[2])
            connection.execute(
                "UPDATE passage SET first = NULL, last = NULL WHERE stream = ? AND last > ?", (row[0], position)
            )
            return row[0], prefix

    def cut_stream(self, stream: int, position: int) -> None:
        """Tokens from `position` on were taken back: their passages are forgotten."""
        with self._writing() as connection:
            gone = connection.execute("SELECT id FROM passage WHERE stream = ? AND last > ?", (stream, position))
            _delete(connection, [id_ for (id_,) in gone])

    def forget_behind(self, position: int) -> None:
        """What the newest stream said from `position` on is forgotten: it will be said again."""
        with self._writing() as connection:
            row = connection.execute("SELECT max(id) FROM stream").fetchone()
            gone = connection.execute("SELECT id FROM passage WHERE stream = ? AND last > ?", (row[0], position))
            _delete(connection, [id_ for (id_,) in gone])

    def add(self, stream: int, role: Role, passages: Sequence[NewPassage], space: str = "") -> list[int]:
        """Keep what was said in one turn, as `add_turns` does."""
        return self.add_turns(stream, [(role, passages)], space)

    def add_turns(self, stream: int, turns: Sequence[tuple[Role, Sequence[NewPassage]]], space: str = "") -> list[int]:
        """Keep what was said in some turns, all of it or nothing; returns the numbers of its passages.

        Args:
            stream: that of `begin_stream`.
            turns: in order, each with who said it and its passages.
            space: the name of the calibration that made their vectors.
        """
        with self._writing() as connection:
            ids, now = [], time.time()
            for role, passage in ((role, passage) for role, passages in turns for passage in passages):
                cursor = connection.execute(
                    f"INSERT INTO passage ({_COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        stream, passage.first, passage.last, role, now, int(passage.standing),
                        passage.text,
                    ),
                )  # fmt: skip
                ids.append(int(cursor.lastrowid or 0))
                if passage.tokens is not None and passage.mean is not None and len(passage.tokens):
                    connection.execute(
                        "INSERT INTO vectors VALUES (?, ?, ?, ?)",
                        (ids[-1], _space(connection, space), passage.tokens.tobytes(), passage.mean.tobytes()),
                    )
            pack_means(connection)
        if (excess := self.bytes - self.most_bytes) > 0:
            self._make_room(excess + int(self.most_bytes * SLACK))
        return ids

    def get(self, ids: Sequence[int]) -> dict[int, Passage]:
        """Those of the passages that there are, by number."""
        found: dict[int, Passage] = {}
        with self.reading() as connection:
            for start in range(0, len(ids), 200):
                some = [int(id_) for id_ in ids[start : start + 200] if abs(id_) <= LARGEST]  # no other has a number
                marks = ",".join("?" * len(some))
                rows = connection.execute(f"SELECT {_COLUMNS} FROM passage WHERE id IN ({marks})", some)
                found.update((row[0], _passage(row)) for row in rows)
        return found

    def newest(self, count: int, before: int | None = None) -> list[Passage]:
        """The last passages, newest first; `before` leaves out that number and what was said after it."""
        with self.reading() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM passage WHERE id < ? ORDER BY id DESC LIMIT ?",
                (min(LARGEST if before is None else before, LARGEST), min(count, LARGEST)),
            )
            return [_passage(row) for row in rows]

    def has_unseen(self, stream: int, seen_from: int) -> bool:
        """Whether there is anything that the stream does not see: it sees its tokens from that position on."""
        with self.reading() as connection:
            query = "SELECT 1 FROM passage WHERE stream != ? OR first IS NULL OR first < ? LIMIT 1"
            return connection.execute(query, (stream, seen_from)).fetchone() is not None

    def standing(self) -> list[Passage]:
        """The standing instructions, oldest first."""
        with self.reading() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM passage WHERE standing ORDER BY id")
            return [_passage(row) for row in rows]

    def export(self) -> Iterator[Passage]:
        """All passages, oldest first."""
        last = 0
        while True:
            with self.reading() as connection:
                rows = connection.execute(
                    f"SELECT {_COLUMNS} FROM passage WHERE id > ? ORDER BY id LIMIT 500", (last,)
                ).fetchall()
            if not rows:
                return
            yield from map(_passage, rows)
            last = rows[-1][0]

    def forget(self, ids: Sequence[int]) -> int:
        """Remove passages so that the file has nothing left of them; returns how many there were.

        The pages that held them are overwritten. What the disk itself keeps of an older version of a page (a flash
        chip's spare blocks, a snapshot, a backup) is out of reach.
        """
        with self._writing() as connection:
            count = _delete(connection, list(self.get(ids)))
        if count:
            self._wipe()
        return count

    def forget_all(self) -> int:
        """Remove every passage and what is known of streams, but the one that is talked in; returns how many."""
        with self._writing() as connection:
            ids = [id_ for (id_,) in connection.execute("SELECT id FROM passage")]
            _delete(connection, ids)
            connection.execute("DELETE FROM pack")
            connection.execute("DELETE FROM stream WHERE id < (SELECT max(id) FROM stream)")
        self._wipe()
        with self.reading() as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return len(ids)

    def check(self) -> None:
        """Read the whole file; DamagedMemory if something in it is damaged."""
        with self._lock:
            archive_file.check_pages(self.path, self._connection)

    def _wipe(self) -> None:
        """The words of what is gone out of the index, and old pages out of the log."""
        with self.reading() as connection:
            connection.execute("INSERT INTO word (word) VALUES ('optimize')")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _make_room(self, wanted: int) -> None:
        """Free about so many bytes: vectors of the oldest passages while they are most of it, else those passages."""
        with self._writing() as connection:
            row = connection.execute("SELECT coalesce(sum(length(tokens) + length(mean)), 0) FROM vectors").fetchone()
            if int(row[0]) > max(wanted, self.most_bytes // 2):
                query = "SELECT passage, length(tokens) + length(mean) FROM vectors ORDER BY passage"
                _drop(connection, wanted, query, _delete_vectors)
                return
            query = (
                "SELECT id, length(text) * 2 + 100 + coalesce((SELECT length(tokens) + length(mean) FROM vectors "
                "WHERE passage = id), 0) FROM passage WHERE NOT standing ORDER BY id"
            )
            _drop(connection, wanted, query, _delete)
        with self.reading() as connection:
            connection.execute("INSERT INTO word (word, rank) VALUES ('merge', 500)")


_COLUMNS = "id, stream, first, last, role, said, standing, text"


def _passage(row: tuple) -> Passage:
    id_, stream, first, last, role, said, standing, text = row
    return Passage(id_, stream, first, last, role, said, bool(standing), text)


def _new_stream(connection: sqlite3.Connection, fingerprint: str, prefix: Sequence[int] = ()) -> int:
    """Its number."""
    cursor = connection.execute(
        "INSERT INTO stream (fingerprint, began, prefix) VALUES (?, ?, ?)",
        (fingerprint, time.time(), json.dumps(list(prefix))),
    )
    return int(cursor.lastrowid or 0)


def _prefix(text: object) -> tuple[int, ...]:
    """The first ids of a stream, as the database has them; sqlite3.DatabaseError if they are none."""
    try:
        ids = strict_json.parse(text) if isinstance(text, str) else None
    except ValueError:
        ids = None
    if not isinstance(ids, list) or not all(type(id_) is int and id_ >= 0 for id_ in ids):
        raise sqlite3.DatabaseError("the first ids of a stream are no ids")
    return tuple(ids)


def _space(connection: sqlite3.Connection, name: str) -> int:
    """The number of a space, given to it if it has none."""
    connection.execute("INSERT OR IGNORE INTO space (name) VALUES (?)", (name,))
    return int(connection.execute("SELECT id FROM space WHERE name = ?", (name,)).fetchone()[0])


def _drop(
    connection: sqlite3.Connection,
    wanted: int,
    query: str,
    delete: Callable[[sqlite3.Connection, Sequence[int]], object],
) -> None:
    """Delete what a query lists, (number, bytes) in the order in which it goes, until `wanted` bytes are free."""
    ids: list[int] = []
    for id_, size in connection.execute(query):
        if wanted <= 0:
            break
        ids.append(id_)
        wanted -= size
    delete(connection, ids)


def _delete(connection: sqlite3.Connection, ids: Sequence[int]) -> int:
    """Remove passages, their words and their vectors."""
    _delete_vectors(connection, ids)
    connection.executemany("DELETE FROM passage WHERE id = ?", [(id_,) for id_ in ids])
    return len(ids)


def _delete_vectors(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    connection.executemany("DELETE FROM vectors WHERE passage = ?", [(id_,) for id_ in ids])
    drop_from_packs(connection, ids)
