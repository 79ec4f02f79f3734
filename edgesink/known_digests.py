"""SHA-256 of files that were hashed before and have not changed since.

Owns the question whether a file changed. The system tells: size, inode, and the times of the last write and of the last
change to anything about the file (`st_ctime_ns`, which no program can set back). Records lie in the cache, one for each
folder that still exists; without a cache that can be written every file is hashed each time. Knows nothing of what the
files mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from edgesink.errors import EdgesinkError
from edgesink.files import atomic_write
from edgesink.paths import cache_folder

FORMAT = 1
SETTLED_NS = 2_000_000_000
"""A file that changed less than this ago may change again within one tick of its file system's clock, unseen."""


class KnownDigests:
    """The digests of one folder's files, as they were when last hashed.

    Args:
        folder: its resolved path names the record.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._place = folder, folder.resolve()
        name = hashlib.sha256(os.fsencode(self._place)).hexdigest()[:24]
        self._record = cache_folder("digests") / f"{name}.json"
        self._known = _read(self._record)
        self._has_news = False

    def sha256_of(self, path: Path) -> str:
        """Hexadecimal SHA-256 of a file in the folder, which is read only if it is not known or may have changed."""
        name, before = path.relative_to(self._folder).as_posix(), _identity(path)
        known = self._known.get(name)
        if known and known[:-1] == before:
            return str(known[-1])
        digest = sha256_of(path)
        if _identity(path) == before and time.time_ns() - max(before[-2:]) > SETTLED_NS:
            self._known[name], self._has_news = [*before, digest], True
        return digest

    def keep(self) -> None:
        """Write down what was hashed since, and remove the records of folders that are gone; a cache that cannot be
        written stays as it is."""
        if self._has_news:
            files = {name: known for name, known in self._known.items() if (self._folder / name).exists()}
            record = {"format": FORMAT, "folder": str(self._place), "files": files}
            with suppress(EdgesinkError, OSError):
                self._record.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(self._record) as aside:
                    aside.write_text(json.dumps(record), encoding="utf-8")
                for other in self._record.parent.glob("*.json"):
                    if _is_of_no_folder(other):
                        other.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(path: Path) -> list[int]:
    """What is another number once the file has been written to or replaced, the two times last."""
    found = path.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _is_of_no_folder(record: Path) -> bool:
    """Whether a record names a folder that is not there any more; one that names none is left."""
    try:
        folder = json.loads(record.read_text(encoding="utf-8"))["folder"]
        return isinstance(folder, str) and not os.path.lexists(folder)
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _read(record: Path) -> dict[str, list[int | str]]:
    """File name -> its identity and its digest; nothing where there is no record, or none of this format."""
    try:
        data = json.loads(record.read_text(encoding="utf-8"))
        files = data["files"] if data["format"] == FORMAT else {}
        return {name: known for name, known in files.items() if isinstance(known, list) and len(known) == 5}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
