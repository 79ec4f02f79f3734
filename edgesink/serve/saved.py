"""Conversations on disk: a session file each, named by the key of what it has read, and what it remembers beside it.

Owns the folder and how much may be in it. A file holds what a model has read, as numbers from which it can be guessed,
so the folder is its owner's alone. Two servers may share one: a file is whole or not there, and gone once it was taken.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edgesink.errors import EdgesinkError
from edgesink.files import TEMPORARY, place_errors
from edgesink.runtime.session import Stream

log = logging.getLogger("edgesink.serve")
NAME = re.compile(r"((?:(?:text|ids)-[0-9]{1,15}-)?[0-9a-f]{64})\.session")
LEFT_SECONDS = 3600  # after which what was being written was left by a server that was killed


class SavedConversations:
    """Conversations in a folder, which is made; the oldest make room where all take more than `most_bytes`."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        with place_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sweep(folder)
            self._bytes = _sizes(folder)  # of each, the oldest first
        self._make_room()

    def names(self) -> list[str]:
        """The keys of all that are there."""
        return list(self._bytes)

    def save(self, key: str, stream: Stream, put_memory: Callable[[Path], object] | None = None) -> None:
        """Keep a stream; BadPlace or NoSpace if that cannot be.

        Args:
            put_memory: leaves a file of what it remembers at the place that it is called with; None: it remembers
                nothing.
        """
        path, beside = self._path(key), self.memory_path(key)
        try:
            if put_memory is not None:
                put_memory(beside)
            else:
                beside.unlink(missing_ok=True)
            stream.save(path)
            path.chmod(0o600)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        self._bytes.pop(key, None)
        self._bytes[key] = sum(file.stat().st_size for file in (path, beside) if file.exists())
        self._make_room()

    def memory_path(self, key: str) -> Path:
        """Where the memory of a conversation is, if it has one: as long as the conversation itself."""
        return self._folder / f"{key}.memory"

    def restore(self, key: str, stream: Stream) -> bool:
        """Take a stream out; False if its file is gone or damaged, the stream as it was."""
        try:
            stream.restore(self._path(key))
        except EdgesinkError as error:
            log.warning("a saved conversation is read anew: %s", error)
            return False
        finally:
            self._remove(key)
        return True

    def _make_room(self) -> None:
        while sum(self._bytes.values()) > self._most_bytes:
            self._remove(next(iter(self._bytes)))

    def _remove(self, key: str) -> None:
        self._bytes.pop(key, None)
        try:
            self._path(key).unlink(missing_ok=True)
            self.memory_path(key).unlink(missing_ok=True)
        except OSError as error:
            log.warning("a saved conversation cannot be removed: %s", error)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.session"


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each conversation and its memory by its key, the oldest first. Another server may take one meanwhile."""
    found = []
    for path in folder.iterdir():
        if NAME.fullmatch(path.name):
            with suppress(FileNotFoundError):
                about, beside = path.stat(), path.with_suffix(".memory")
                size = about.st_size + (beside.stat().st_size if beside.exists() else 0)
                found.append((about.st_mtime_ns, path.stem, size))
    return {key: size for _, key, size in sorted(found)}


def _sweep(folder: Path) -> None:
    """Remove what a killed server was writing (the entries are as `atomic_write` makes them), or had not finished."""
    alone = (path for path in folder.glob("*.memory") if not path.with_suffix(".session").exists())
    for path in (*folder.glob(f"{TEMPORARY}*"), *alone):
        with suppress(OSError):
            if path.lstat().st_mtime < time.time() - LEFT_SECONDS:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
