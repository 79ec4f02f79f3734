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
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgesink.errors import BadPlace, NoSpace, reason
from edgesink.locks import lock_folder, names_held

ANOTHER = "choose another place"
TEMPORARY = ".edgesink."  # how names of folders begin that are there for a moment


@contextmanager
def place_errors(path: Path, remedy: str = ANOTHER) -> Iterator[None]:
    """What the system refuses in here, at `path` if it names no other place, as NoSpace or BadPlace."""
    try:
        yield
    except BrokenPipeError:  # of whom we talk to, not of a place
        raise
    except OSError as error:
        named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
        ours = any(part.startswith((TEMPORARY, f".{path.name}.")) for part in named.parts)
        place = path if ours else named
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"{place}: the disk is full", "", f"free some disk, or {remedy}") from None
        raise BadPlace(f"{place}: {reason(error)}", "", remedy) from None


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path to write to, on the same disk; renamed to `path` at the end, or removed if something fails.

    A link stays one: what it leads to is written. Only an ordinary file is ever replaced, and its permissions stay.
    Raises NoSpace, or BadPlace.
    """
    with place_errors(path):
        goal = check_file_goal(path)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=goal.parent) as folder:
            temporary = Path(folder) / "new"
            yield temporary
            if goal.exists():
                temporary.chmod(stat.S_IMODE(goal.stat().st_mode))
            temporary.replace(goal)


@contextmanager
def durable_write(path: Path) -> Iterator[Path]:
    """`atomic_write` for one writer at a time, private, on the disk when it returns, and without leftovers.

    The folder that is written in has one name, so what a killed process left in it is cleared by the next: also files
    that a library makes beside the one it was given, as safetensors does. Who writes must hold a lock for `path`.
    Raises NoSpace, or BadPlace; what stood at `path` is untouched then.
    """
    with place_errors(path):
        goal = check_file_goal(path)
        sweep_durable(goal)
        folder = _durable_folder(goal)
        folder.mkdir(mode=0o700)
        aside = folder / "new"
        try:
            os.close(os.open(aside, os.O_WRONLY | os.O_CREAT, 0o600))
            yield aside
            _flush(aside)
            os.replace(aside, goal)
        finally:
            sweep_durable(goal)
        _flush(goal.parent)


def sweep_durable(path: Path) -> None:
    """Remove what a process that was killed within `durable_write` left; the lock for `path` must be held."""
    folder = _durable_folder(path)
    with suppress(OSError):
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
        else:
            folder.unlink(missing_ok=True)


def _durable_folder(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{path.name}")


def _flush(path: Path) -> None:
    """To the disk; a folder where the system knows how to."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_file_goal(path: Path) -> Path:
    """Where `path` leads, if a file may be put there; BadPlace if what stands there is none, or may not be replaced."""
    try:
        goal = path.resolve()
        mode = goal.stat().st_mode
    except FileNotFoundError:
        if not os.access(goal.parent, os.W_OK | os.X_OK):
            raise BadPlace(f"{path}: no file can be made there", "a folder that may be written", ANOTHER) from None
        return goal
    except OSError as error:
        raise BadPlace(f"{path}: {reason(error)}", "the name of a file", ANOTHER) from None
    except (ValueError, RuntimeError) as error:  # a null byte; links that lead in a circle
        raise BadPlace(f"{str(path)!r}: {error}", "the name of a file", ANOTHER) from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
        raise BadPlace(f"{path} is {kind}", "a file, or a name that is free", ANOTHER)
    if not mode & 0o222 or not os.access(goal, os.W_OK):
        raise BadPlace(f"{path} is read-only", "a file that may be written", ANOTHER)
    return goal


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `path` at the end, or vanishes where something fails.

    The folder above it is there for scratch files, and vanishes in any case. What a killed process left of an earlier
    try is cleared first. Raises NoSpace where the disk fills up, BadPlace where nothing may be made.
    """
    with place_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _work_folder(path) as work:
            folder = work / path.name
            folder.mkdir()
            yield folder
            with names_held(path.parent):
                _put(folder, path, work)


def recover_folder(path: Path) -> None:
    """Put back what stood at `path`, if a process was killed between taking it away and putting the new one there."""
    if os.path.lexists(path) or not path.name or not _leftovers(path, "old"):
        return
    with suppress(OSError), names_held(path.parent):
        _restore(path)


def check_space(folder: Path, needed_bytes: int) -> None:
    """NoSpace if the disk of `folder` has less than that free."""
    with place_errors(folder):
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        disk = shutil.disk_usage(there)
    free = disk.free
    if free < needed_bytes and disk.total:  # a place without a size says nothing
        raise NoSpace(
            f"{folder} has {free >> 20} MiB free",
            f"about {needed_bytes >> 20} MiB",
            "free some disk, choose another --out, or a smaller --precision",
        )


@contextmanager
def _work_folder(path: Path) -> Iterator[Path]:
    """A locked folder beside `path`, for as long as the work takes."""
    with names_held(path.parent):
        _restore(path)
        _sweep(path)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.new.", dir=path.parent))
        lock = lock_folder(work)
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
        lock = lock_folder(left)
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
