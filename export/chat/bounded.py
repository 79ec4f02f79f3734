"""Cutting in a process of its own, with little time and memory: a template is a program that anybody may have written.

`edgesink.export.chat.child` is that process: a request on stdin, the answer on stdout, both JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from edgesink.manifest import decode
from edgesink.turns import Turns

SECONDS = 10  # of processor time for all renderings together; a large template takes one
MEMORY_BYTES = 256 << 20  # on top of what the tokenizer holds
TOO_MUCH = f"its chat template takes more than {SECONDS} s or {MEMORY_BYTES >> 20} MB to render"


def cut_turns(source: str, special: Mapping[str, str], tokenizer: Path) -> Turns | str:
    """The turns of a chat template, or one line that says why it has none.

    Args:
        source: the template.
        special: texts of the special tokens by the names that templates have for them, "bos_token".
        tokenizer: the bundle's tokenizer.json.
    """
    request = json.dumps({
        "source": source, "special": dict(special), "tokenizer": str(tokenizer), "seconds": SECONDS,
        "memory_bytes": MEMORY_BYTES,
    })  # fmt: skip
    command = [sys.executable, "-P", "-m", "edgesink.export.chat.child"]
    try:
        done = subprocess.run(command, input=request.encode(), capture_output=True, timeout=60 * SECONDS)
    except subprocess.TimeoutExpired:
        return TOO_MUCH
    if done.returncode < 0 or b"MemoryError" in done.stderr:  # ended by the system
        return TOO_MUCH
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace"))
    answer = json.loads(done.stdout)
    return answer if isinstance(answer, str) else decode(Turns, answer, "turns")
