"""Conversations on disk: a session file each, named by the key of what it has read.

Owns the folder and how much may be in it. A file holds what a model has read, as numbers from which it can be guessed,
so the folder is its owner's alone. Two servers may share one: a file is whole or not there, and gone once it was taken.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from edgesink.errors import EdgesinkError
from edgesink.files import place_errors
from edgesink.runtime.session import Stream

log = logging.getLogger("edgesink.serve")
NAME = re.compile(r"((?:(?:text|ids)-[0-9]{1,15}-)?[0-9a-f]{64})\.session")


class SavedConversations:
    """Conversations in a folder, which is made; the oldest make room where all take more than `most_bytes`."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        with place_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
            found.sort(key=lambda path: path.stat().st_mtime_ns)
            self._bytes = {path.stem: path.stat().st_size for path in found}  # of each, the oldest first
        self._make_room()

    def names(self) -> list[str]:
        """The keys of all that are there."""
        return list(self._bytes)

    def save(self, key: str, stream: Stream) -> None:
        """Keep a stream; BadPlace or NoSpace if that cannot be."""
        path = self._path(key)
        stream.save(path)
        path.chmod(0o600)
        self._bytes.pop(key, None)
        self._bytes[key] = path.stat().st_size
        self._make_room()

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
            os.unlink(self._path(key))
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("a saved conversation cannot be removed: %s", error)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.session"
