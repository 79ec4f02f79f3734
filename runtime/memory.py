"""Memory of the machine: how much is free, and giving back what is not needed. Knows no bundle."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path


def free_bytes() -> int:
    """Memory that can be had without swapping, as Linux tells it; elsewhere all that the machine has."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def huge_file_bytes() -> int:
    """Bytes of files that this process has mapped in huge pages; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("FilePmdMapped:"))
    except (OSError, StopIteration):
        return 0


def give_back() -> None:
    """Return freed memory to the system, which glibc does not by itself: weights that were unpacked leave gigabytes."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
