"""The file of an archive: one SQLite database, opened so that it is private, whole after a crash, and really forgets.

Owns the schema, the checks of a file that is opened, and what becomes of a damaged one. Knows nothing of what is kept.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgesink.errors import BadMemory, BadOption, BadPlace, DamagedMemory, NoSpace, first_line, reason
from edgesink.files import place_errors

APPLICATION_ID = 0x65646773  # "edgs", in the header of the file
VERSION = 1
BUSY_SECONDS = 5.0  # how long another process may be writing
CACHE_KIB = 1024  # of pages that the database keeps in memory

SCHEMA = """
CREATE TABLE stream (
    id INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL,  -- of the bundle
    began REAL NOT NULL,        -- seconds since 1970
    prefix TEXT NOT NULL        -- its first ids, as JSON
);
CREATE TABLE passage (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream INTEGER NOT NULL REFERENCES stream,
    first INTEGER,              -- position of its first token in the stream; NULL: no stream has it any more
    last INTEGER,               -- behind its last token
    role TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
    said REAL NOT NULL,         -- seconds since 1970
    standing INTEGER NOT NULL,  -- 1: an instruction that holds from now on
    text TEXT NOT NULL
);
CREATE INDEX passage_place ON passage (stream, first);
CREATE INDEX passage_standing ON passage (id) WHERE standing;
CREATE VIRTUAL TABLE word USING fts5 (text, content = 'passage', content_rowid = 'id', tokenize = 'porter unicode61');
CREATE TRIGGER passage_added AFTER INSERT ON passage BEGIN
    INSERT INTO word (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER passage_gone AFTER DELETE ON passage BEGIN
    INSERT INTO word (word, rowid, text) VALUES ('delete', old.id, old.text);
END;
CREATE TABLE space (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE   -- of the calibration that made the vectors
);
CREATE TABLE vectors (
    passage INTEGER PRIMARY KEY REFERENCES passage ON DELETE CASCADE,
    space INTEGER NOT NULL REFERENCES space,
    tokens BLOB NOT NULL,       -- int8 [n, d], a vector for every token that matters
    mean BLOB NOT NULL          -- int8 [d], their mean
);
CREATE TABLE pack (             -- the means of many passages in one place, to be read at once
    id INTEGER PRIMARY KEY,     -- the last of those passages
    space INTEGER NOT NULL REFERENCES space,
    passages BLOB NOT NULL,     -- int64 [p]
    means BLOB NOT NULL         -- int8 [p, d]
);
"""


def open_file(path: Path, make: bool = True) -> sqlite3.Connection:
    """A connection to the archive at `path`, made first if there is none and `make` allows it.

    Raises:
        BadMemory: no archive, or one of a later version; the file is as it was.
        DamagedMemory: a damaged one; the file is as it was.
        BadPlace: nothing can be read or written there.
    """
    _check_place(path, make)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        with database_errors(path):
            _check_header(path, connection)
            for setting in (
                "journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "foreign_keys = ON",
                f"cache_size = -{CACHE_KIB}", "temp_store = MEMORY", "journal_size_limit = 1048576",
                "wal_autocheckpoint = 256",
            ):  # fmt: skip
                connection.execute(f"PRAGMA {setting}")
            if _is_empty(connection):
                _make(connection)
            _check_tables(path, connection)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """What SQLite says in here, as BadMemory, DamagedMemory, BadPlace or NoSpace; of a number too large, BadOption.

    Who finds nonsense in the database raises sqlite3.DatabaseError as SQLite does: then the file is named here.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        said = first_line(error)
        if "disk is full" in said:
            raise NoSpace(f"{path}: the disk is full", "", "free some disk") from None
        if "locked" in said or "busy" in said:
            raise BadMemory(f"{path} is being written by another process", "", "try again, or end that one") from None
        if any(words in said for words in ("readonly", "unable to open", "disk I/O error")):  # not the file's fault
            raise BadPlace(f"{path}: {said}", "a file that may be written", "choose another place") from None
        raise _damaged(path, said) from None
    except sqlite3.DatabaseError as error:
        raise _damaged(path, first_line(error)) from None
    except OverflowError:
        raise BadOption("a number of more than 63 bits", "one that a database holds", "give a smaller one") from None


def set_aside(path: Path) -> Path:
    """Rename a damaged archive, so that a new one can be made in its place; returns where it is now."""
    with place_errors(path):
        number = 1
        while (goal := path.with_name(f"{path.name}.damaged-{number}")).exists():
            number += 1
        path.rename(goal)
        for suffix in ("-wal", "-shm"):  # of the damaged one: a new database must not be read with them
            beside = path.with_name(path.name + suffix)
            if beside.exists():
                beside.rename(goal.with_name(goal.name + suffix))
    return goal


def _check_place(path: Path, make: bool) -> None:
    """A file that only its owner may read, made empty where there was none."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not make:
            raise BadMemory(f"no memory at {path}", "a file that `edgesink chat --memory` wrote", "") from None
        with place_errors(path):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        return
    except (OSError, ValueError) as error:  # a null byte
        raise BadPlace(f"{str(path)!r}: {reason(error)}", "the name of a file", "choose another place") from None
    if not stat.S_ISREG(mode):
        raise BadPlace(f"{path} is no ordinary file", "a memory, or a name that is free", "choose another place")


def _check_header(path: Path, connection: sqlite3.Connection) -> None:
    """BadMemory unless it is an archive of this version, or empty; one that others may read becomes private."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == 0 and version == 0 and _is_empty(connection):
        return
    if application != APPLICATION_ID:
        raise BadMemory(f"{path} is a database of something else", "a memory of edgesink", "choose another file")
    if version != VERSION:
        raise BadMemory(f"{path} is a memory of version {version}", f"version {VERSION}", "update edgesink")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        with place_errors(path):
            path.chmod(0o600)


def _make(connection: sqlite3.Connection) -> None:
    """All tables or none: a process that is killed here leaves an empty file. Another may make them first."""
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; "
            f"PRAGMA user_version = {VERSION}; COMMIT;"
        )
    except sqlite3.OperationalError:
        connection.rollback()
        if _is_empty(connection):
            raise
        return
    connection.execute("INSERT INTO word (word, rank) VALUES ('automerge', 4)")


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Whether there is no table yet."""
    return not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _check_tables(path: Path, connection: sqlite3.Connection) -> None:
    """DamagedMemory if a table is missing, or its pages do not hang together."""
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if missing := {"stream", "passage", "word", "space", "vectors", "pack"} - names:
        raise _damaged(path, f"the table {min(missing)} is missing")
    connection.execute("SELECT max(id), max(said) FROM passage").fetchone()
    connection.execute("SELECT rowid FROM word WHERE word MATCH 'memory' LIMIT 1").fetchone()


def check_pages(path: Path, connection: sqlite3.Connection) -> None:
    """Read the whole file; DamagedMemory if a page is damaged."""
    with database_errors(path):
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise _damaged(path, found.replace("\n", " "))
        connection.execute("INSERT INTO word (word) VALUES ('integrity-check')")


def _damaged(path: Path, said: str) -> DamagedMemory:
    remedy = "restore a copy; `edgesink chat --memory` would set it aside and begin a new one"
    return DamagedMemory(f"{path} is damaged ({said})", "", remedy)
