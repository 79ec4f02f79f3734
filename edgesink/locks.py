"""Locks that end with the process that holds them, however it ends: none is ever stale.

Where there are no such locks (Windows, some network drives) nobody waits for anybody.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def exclusive(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """The time in which no other process is in here for the same `path`, which need not exist; its folder must.

    Args:
        on_wait: called once where another process is in here already.
    """
    lock = _held_file(path.with_name(f".{path.name}.lock"), on_wait)
    try:
        yield
    finally:
        if lock is not None:
            path.with_name(f".{path.name}.lock").unlink(missing_ok=True)  # while it is held: who waits makes a new one
            os.close(lock)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """The time in which no other process, and nobody else in this one, is in here for the same `path`.

    `path` need not exist; its folder must. Raises BlockingIOError at once where somebody is in here already, with what
    is known of who it is.
    """
    lock = _own_file(path.with_name(f".{path.name}.lock"))
    try:
        yield
    finally:
        if lock is not None:
            path.with_name(f".{path.name}.lock").unlink(missing_ok=True)
            os.close(lock)


@contextmanager
def names_held(folder: Path) -> Iterator[None]:
    """The time in which nobody else who does likewise changes names in `folder`."""
    lock = lock_folder(folder, wait=True)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def lock_folder(folder: Path, wait: bool = False) -> int | None:
    """A descriptor that keeps `folder` locked until it is closed or its process ends; None if it cannot be had."""
    return None if fcntl is None else _locked(os.open(folder, os.O_RDONLY), wait)


def _held_file(path: Path, on_wait: Callable[[], None]) -> int | None:
    """A descriptor of the file that stands at `path` now, locked."""
    waits = False
    while fcntl is not None:
        lock = _locked(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), wait=False)
        if lock is None:
            if not waits:
                on_wait()
            waits = True
            lock = _locked(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), wait=True)
        if lock is None or _is_at(lock, path):
            return lock
        os.close(lock)  # its holder has taken it away
    return None


def _own_file(path: Path) -> int | None:
    """A descriptor of the file that stands at `path` now, locked, with the number of this process in it."""
    while fcntl is not None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise BlockingIOError(f"process {holder}" if holder else "another process") from None
        except OSError:  # no locks here
            os.close(descriptor)
            return None
        if _is_at(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            return descriptor
        os.close(descriptor)  # its holder has taken it away
    return None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _locked(descriptor: int, wait: bool) -> int | None:
    """The descriptor, its file locked; None, and it is closed, where that cannot be."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
