"""How many threads this process may really keep busy: what it is let run on, and what its container is given.

ONNX Runtime counts the cores of the machine. A process that is bound to a few of them, or given a share of their time,
runs slower with more threads than that.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

PROCESSORS = "/sys/devices/system/cpu"
CGROUPS = "/sys/fs/cgroup"
OWN_CGROUPS = "/proc/self/cgroup"

Read = Callable[[str], str | None]
"""The text of a file of the system; None if there is none."""


def threads_to_take(asked: int | None) -> int | None:
    """`asked`, but never more than the process may run on; without it, a thread a core. None: nothing is known."""
    logical = _allowed()
    if asked is not None:
        return min(asked, len(logical) or os.cpu_count() or 1)
    if not logical:
        return None
    return max(1, math.ceil(min(cores_of(logical, read_text), cpu_quota(read_text))))


def cores_of(logical: set[int], read: Read) -> int:
    """Cores that have these logical processors: two on one core compute no faster than one."""
    siblings = {read(f"{PROCESSORS}/cpu{number}/topology/thread_siblings_list") or str(number) for number in logical}
    return len(siblings)


def cpu_quota(read: Read) -> float:
    """Processors' worth of time that the containers around this process are given; infinity without a limit."""
    limits = [_limit(path, read) for path in _own_groups(read)]
    return min(limits, default=math.inf)


def _own_groups(read: Read) -> set[str]:
    """Folders of the control groups that the process is in, and of those above them."""
    found = {CGROUPS, f"{CGROUPS}/cpu"}
    for line in (read(OWN_CGROUPS) or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" or "cpu" in controllers.split(","):
            base = Path(CGROUPS if number == "0" else f"{CGROUPS}/cpu")
            inside = base / path.lstrip("/")
            found |= {str(folder) for folder in (inside, *inside.parents) if folder.is_relative_to(base)}
    return found


def _limit(folder: str, read: Read) -> float:
    """Of one group: version 2 has quota and period in one file, version 1 in two."""
    texts = (read(f"{folder}/cpu.max") or "").split() or [
        (read(f"{folder}/cpu.cfs_quota_us") or "").strip(),
        (read(f"{folder}/cpu.cfs_period_us") or "").strip(),
    ]
    if len(texts) != 2 or not all(text.isdecimal() and int(text) for text in texts):
        return math.inf  # "max", -1, or no such group
    return int(texts[0]) / int(texts[1])


def _allowed() -> set[int]:
    """Logical processors that the process may run on; none where the system does not say."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set()


def read_text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
