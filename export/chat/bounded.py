"""Cutting in a process of its own, with little time and memory: a template is a program that anybody may have written.

`python -m edgesink.export.chat.bounded` is that process: a request on stdin, the answer on stdout, both JSON.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgesink.manifest import decode
from edgesink.turns import Turns

SECONDS = 10  # of processor time for all renderings together; a large template takes one
MEMORY_BYTES = 256 << 20  # on top of what the tokenizer holds


def cut_turns(source: str, special: Mapping[str, str], tokenizer: Path) -> Turns | str:
    """The turns of a chat template, or one line that says why it has none.

    Args:
        source: the template.
        special: texts of the special tokens by the names that templates have for them, "bos_token".
        tokenizer: the bundle's tokenizer.json.
    """
    request = json.dumps({"source": source, "special": dict(special), "tokenizer": str(tokenizer)})
    command = [sys.executable, "-P", "-m", "edgesink.export.chat.bounded"]
    try:
        done = subprocess.run(command, input=request.encode(), capture_output=True, timeout=6 * SECONDS)
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return f"its chat template takes more than {SECONDS} s or {MEMORY_BYTES >> 20} MB to render"
    return answer if isinstance(answer, str) else decode(Turns, answer, "turns")


def main() -> None:
    """Answer one request."""
    from tokenizers import Tokenizer

    from edgesink.export.chat.cut import cut
    from edgesink.export.chat.template import NoTurns

    request = json.load(sys.stdin.buffer)
    tokenizer = Tokenizer.from_file(request["tokenizer"])
    _limit()
    answer: Any
    try:
        answer = dataclasses.asdict(cut(request["source"], request["special"], tokenizer))
    except NoTurns as error:
        answer = error.found
    sys.stdout.write(json.dumps(answer))


def _limit() -> None:
    """From here on; where the system has no such limits (Windows) the parent's timeout is left."""
    with suppress(ImportError):
        import resource

        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + SECONDS, int(used) + SECONDS + 1))
        held = Path("/proc/self/statm")
        if held.is_file():
            most = int(held.read_text().split()[0]) * resource.getpagesize() + MEMORY_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main()
