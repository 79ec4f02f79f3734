"""What is typed while an answer is made: it is not echoed into the answer, and comes back at the next prompt.

Owns the terminal's mode during an answer, and how keys become text: a line end does not send, a backspace takes back,
and keys without a text are dropped. Where there is no such terminal (Windows, a pipe) it does nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

termios: ModuleType | None
try:
    import termios
except ImportError:  # Windows
    termios = None

_KEYS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1bO.|\x1b\r|\x1b.?")  # what other keys and pastes send
_READ_BYTES = 4096  # a terminal holds no more


class Typed:
    """Collects what is typed between `kept_apart` and `take`."""

    def __init__(self) -> None:
        self._bytes = b""

    def poll(self) -> None:
        """Take over what the terminal holds, before it holds too much."""
        import select

        file = sys.stdin.fileno()
        with suppress(OSError):  # the terminal is gone
            while select.select([file], [], [], 0)[0] and (read := os.read(file, _READ_BYTES)):
                self._bytes += read

    def take(self) -> str:
        """All that was typed, as text for the next prompt."""
        text, self._bytes = as_text(self._bytes.decode(errors="ignore")), b""
        return text


@contextmanager
def kept_apart(typed: Typed | None) -> Iterator[None]:
    """No echo within it; Ctrl-C still interrupts. Nothing changes if `typed` is None."""
    if typed is None or termios is None:
        yield
        return
    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    quiet = [*before]
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(file, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        typed.poll()
        termios.tcsetattr(file, termios.TCSADRAIN, before)


def as_text(keys: str) -> str:
    """What the keys write."""
    text: list[str] = []
    for key in _KEYS.sub("", keys).replace("\r\n", "\n").replace("\r", "\n"):
        if key in "\x7f\b":
            del text[-1:]
        elif key == "\x15":  # Ctrl-U
            text.clear()
        elif key == "\x17":  # Ctrl-W
            text = list(re.sub(r"\S*\s*$", "", "".join(text)))
        elif key >= " " or key in "\n\t":
            text.append(key)
    return "".join(text).strip("\n")
