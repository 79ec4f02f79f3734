"""The process that cuts a chat template: `python -m edgesink.export.chat.child`, started by `bounded`.

A request on stdin, the answer on stdout, both JSON: the turns, or a text that says why there are none.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import tokenizers

from edgesink.export.chat.cut import cut
from edgesink.export.chat.template import NoTurns


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin.buffer)
    tokenizer = tokenizers.Tokenizer.from_file(request["tokenizer"])
    _limit(request["seconds"], request["memory_bytes"])
    answer: Any
    try:
        answer = dataclasses.asdict(cut(request["source"], request["special"], tokenizer))
    except NoTurns as error:
        answer = error.found
    sys.stdout.write(json.dumps(answer))


def _limit(seconds: int, memory_bytes: int) -> None:
    """From here on; where the system has no such limits (Windows) the parent's timeout is left."""
    with suppress(ImportError):
        import resource

        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + seconds, int(used) + seconds + 1))
        held = Path("/proc/self/statm")
        if held.is_file():
            most = int(held.read_text().split()[0]) * resource.getpagesize() + memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main()
