"""Gauges that measurements share: the memory of this process, and how long a call takes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def resident_bytes() -> int:
    """Bytes resident now; where only the peak is known (not Linux), the peak; 0 where neither is."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def own_bytes() -> int:
    """Bytes resident now that are no pages of a file, as mapped weights are; where that is not known, all of them."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return resident_bytes()


def milliseconds(call: Callable[[], Any]) -> float:
    """How long `call` takes."""
    began = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began)
