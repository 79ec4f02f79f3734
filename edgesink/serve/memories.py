"""The files of memories: of every conversation in memory one, in a folder that is this server's own.

Owns that folder, and the way of a file to the saved conversation that it belongs to and back. A file that cannot be
made, copied or moved costs its conversation the memory, and nothing else. What a server that was killed left is removed
by the next: clients send their history again, from which a memory is made anew.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgesink.errors import EdgesinkError
from edgesink.files import place_errors
from edgesink.locks import lock_folder, names_held
from edgesink.memory.archive import Archive
from edgesink.memory.memory import Memory
from edgesink.runtime.session import Stream
from edgesink.serve.remembering import Remembering

log = logging.getLogger("edgesink.serve")

LIVE = ".live."  # how the names of such folders begin
BESIDE = ("-wal", "-shm")  # what a database has while it is open
ALL = 2**62  # a position behind all of any stream


class Memories:
    """Memories in a folder of their own within `parent`, which is made; BadPlace or NoSpace if that cannot be.

    Args:
        parent: where saved conversations are.
        most_bytes: of one memory.

    Attributes:
        failed: how many conversations have lost theirs, or got none.
    """

    def __init__(self, parent: Path, most_bytes: int) -> None:
        self._most_bytes, self.failed = most_bytes, 0
        with place_errors(parent):
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with names_held(parent):
                _sweep(parent)
                self._folder = Path(tempfile.mkdtemp(prefix=LIVE, dir=parent))
                self._lock = lock_folder(self._folder)

    def new(self, stream: Stream) -> Remembering | None:
        """An empty one; None if it cannot be."""
        return self._open(self._place(), stream)

    def copied(self, of: Remembering, until: int) -> Path | None:
        """A copy of a memory as it was when its stream was at `until`, for `open`; None if it cannot be."""
        if of.memory.is_off:
            return None
        place = self._place()
        with self._trouble(place):
            of.memory.archive.copy(place)
            copy = Archive(place, self._most_bytes)
            try:
                number, _ = copy.resume_stream(of.stream.manifest.fingerprint, ALL)
                copy.cut_stream(number, until)
            finally:
                copy.close()
            return place
        return None

    def taken(self, saved: Path) -> Path | None:
        """The memory of a saved conversation, taken from there, for `open`; None if it has none."""
        place = self._place()
        with self._trouble(place):
            try:
                os.replace(saved, place)
            except FileNotFoundError:
                return None
            return place
        return None

    def open(self, place: Path | None, stream: Stream) -> Remembering | None:
        """What was copied or taken, for a conversation in `stream`; None for nothing, or if it cannot be."""
        return None if place is None else self._open(place, stream)

    def put_away(self, one: Remembering, goal: Path) -> None:
        """Leave a memory beside a saved conversation; whatever was there is gone, and one that has ended is dropped."""
        place = one.memory.archive.path
        with self._trouble(place):
            goal.unlink(missing_ok=True)
            is_good = not one.memory.is_off
            one.memory.close()
            if is_good and not place.with_name(f"{place.name}{BESIDE[0]}").exists():  # closed, it is one whole file
                os.replace(place, goal)
        _remove(place)

    def drop(self, one: Remembering) -> None:
        """Remove a memory."""
        with self._trouble(one.memory.archive.path):
            one.memory.close()
        _remove(one.memory.archive.path)

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def count_failure(self) -> None:
        """A conversation has lost its memory."""
        self.failed += 1

    def _open(self, place: Path, stream: Stream) -> Remembering | None:
        with self._trouble(place):
            memory = Memory(place, most_bytes=self._most_bytes)
            if memory.trouble:
                log.warning("a conversation begins a new memory: %s", memory.trouble)
                self.count_failure()
            return Remembering(memory, stream, self.count_failure)
        return None

    def _place(self) -> Path:
        return self._folder / f"{secrets.token_hex(8)}.memory"

    @contextmanager
    def _trouble(self, place: Path) -> Iterator[None]:
        """What goes wrong in here is in the log, and the file is removed."""
        try:
            with place_errors(place):
                yield
        except EdgesinkError as error:
            log.warning("a conversation has no memory: %s", error)
            self.count_failure()
            _remove(place)


def _remove(place: Path) -> None:
    for path in (place, *(place.with_name(place.name + suffix) for suffix in BESIDE)):
        with suppress(OSError):
            path.unlink()


def _sweep(parent: Path) -> None:
    """Remove the folders of servers that have ended; those that run keep theirs locked."""
    for left in parent.glob(f"{LIVE}*"):
        lock = lock_folder(left)
        if lock is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
