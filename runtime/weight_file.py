"""The weights of a bundle as a process sees them: mapped, pages of their file; or read, memory of its own.

Mapped, they are there at once, every process that runs the bundle shares them, and the system takes back what it needs
for others. A token is as fast as with memory of its own if the file is kept in huge pages, which Linux does for what
was written or read in large pieces, where the file system can. Owns that choice. Knows bytes, not what they mean.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread

import numpy as np

from edgesink.errors import BadBundle
from edgesink.runtime.memory import free_bytes, huge_file_bytes

SMALL_BYTES = 128_000_000
"""Of so few bytes small pages cost a token 5 to 8 %, and reading them costs less than a tenth of a second."""

MOSTLY = 0.75  # of a file in huge pages: a quarter in small ones costs a token 2 %
MADV_POPULATE_READ = 22  # of Linux 5.14: map the pages of a range, and read those that are not in memory


def open_weights(path: Path, mapped: bool | None = None, step_bytes: int | None = None) -> np.ndarray:
    """The bytes of a file, uint8, not to be written to.

    Args:
        step_bytes: at the end of the file, what every step reads; in front of it are the rows of an embedding, of which
            a step reads one. None: a step reads all of it.
        mapped: True leaves them in the file, False reads them into memory; None leaves them there too, but for a small
            file that the system does not keep in huge pages.
    """
    if mapped is False:
        return _read(path)
    size = path.stat().st_size
    may_read = mapped is None and size <= SMALL_BYTES
    before = huge_file_bytes() if may_read else 0
    weights = _mapped(path)
    if size > free_bytes() // 2:  # what the first token does not need shall not push out what it does
        return weights
    often_read = weights[max(0, size - (step_bytes or size)) :]
    if not may_read:
        Thread(target=_populate, args=(often_read,), daemon=True).start()  # while a graph is opened, a text encoded
        return weights
    _populate(often_read)
    if huge_file_bytes() - before >= MOSTLY * len(often_read):
        return weights
    del weights, often_read  # never both in memory
    return _read(path)


def _mapped(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        if not path.stat().st_size:
            return np.zeros(0, np.uint8)
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # of a system without them
            pages.madvise(mmap.MADV_HUGEPAGE)  # of what is not in memory yet
    return np.frombuffer(pages, np.uint8)


def _populate(weights: np.ndarray) -> None:
    """Have the system read and map all of it; where it cannot, pages come when they are wanted."""
    if sys.platform == "linux":
        begin, madvise = weights.ctypes.data, ctypes.CDLL(None).madvise
        page = begin // mmap.PAGESIZE * mmap.PAGESIZE
        madvise(ctypes.c_void_p(page), ctypes.c_size_t(begin + len(weights) - page), MADV_POPULATE_READ)


def _read(path: Path) -> np.ndarray:
    memory = np.empty(path.stat().st_size, np.uint8)  # large, so numpy asks for huge pages
    with path.open("rb", buffering=0) as data:
        view = memory[:]
        while len(view):  # one call reads 2 GB at most
            count = data.readinto(view)  # type: ignore[arg-type]
            if not count:
                raise BadBundle(f"{path} ends too soon", "", "copy or export the bundle again")
            view = view[count:]
    return memory
