"""Files and folders that appear whole or not at all, even where the process is killed in between.

A folder is made beside its goal and renamed at the end. Names change, and leftovers are cleared, only while the folder
above is locked; whoever makes a folder keeps it locked, so what is not locked was left by a process that has ended.
Where there are no such locks (Windows, some network drives) leftovers stay.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgesink.errors import NoSpace

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path to write to, in the same folder; renamed to `path` at the end, or removed if something fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `path` at the end, or vanishes where something fails.

    The folder above it is there for scratch files, and vanishes in any case. What a killed process left of an earlier
    try is cleared first. Raises NoSpace where the disk fills up.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _work_folder(path) as work:
            folder = work / path.name
            folder.mkdir()
            yield folder
            with _names_held(path.parent):
                _put(folder, path, work)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"{path.parent} is full", "", "free some disk, or choose another --out") from None
        raise


def recover_folder(path: Path) -> None:
    """Put back what stood at `path`, if a process was killed between taking it away and putting the new one there."""
    if path.exists() or not path.name or not _leftovers(path, "old"):
        return
    with suppress(OSError), _names_held(path.parent):
        _restore(path)


def check_space(folder: Path, needed_bytes: int) -> None:
    """NoSpace if the disk of `folder` has less than that free."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise NoSpace(
            f"{folder} has {free >> 20} MiB free",
            f"about {needed_bytes >> 20} MiB",
            "free some disk, choose another --out, or a smaller --precision",
        )


@contextmanager
def _work_folder(path: Path) -> Iterator[Path]:
    """A locked folder beside `path`, for as long as the work takes."""
    with _names_held(path.parent):
        _restore(path)
        _sweep(path)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.new.", dir=path.parent))
        lock = _lock(work)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _put(folder: Path, path: Path, work: Path) -> None:
    """Rename `folder` to `path`; what stood there goes into `work`. Two steps: between them `path` is not there."""
    if not path.exists():
        os.replace(folder, path)
        return
    old = path.with_name(f".{path.name}.old.{work.name.rpartition('.')[2]}")
    try:
        os.replace(path, old)
        os.replace(folder, path)
        os.replace(old, work / "old")
    finally:
        _restore(path)


def _restore(path: Path) -> None:
    if not path.exists():
        for old in _leftovers(path, "old")[-1:]:
            os.replace(old, path)


def _sweep(path: Path) -> None:
    """Remove what killed processes left beside `path`."""
    for left in _leftovers(path, "old") + _leftovers(path, "new"):
        lock = _lock(left)
        if lock is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _leftovers(path: Path, kind: str) -> list[Path]:
    """Folders beside `path` by the names that `whole_folder` gives, the latest last."""
    name = re.compile(re.escape(f".{path.name}.{kind}.") + "[a-z0-9_]{8}")
    try:
        found = [other for other in path.parent.iterdir() if name.fullmatch(other.name) and other.is_dir()]
        return sorted(found, key=lambda other: other.stat().st_ctime_ns)
    except OSError:
        return []


@contextmanager
def _names_held(folder: Path) -> Iterator[None]:
    """The time in which nobody else who does likewise changes names in `folder`."""
    lock = _lock(folder, wait=True)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _lock(folder: Path, wait: bool = False) -> int | None:
    """A descriptor that keeps `folder` locked until it is closed or its process ends; None if it cannot be had."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
