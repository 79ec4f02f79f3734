"""What commands print: the result on stdout, talk and progress bars on stderr."""

from __future__ import annotations

import codecs
import io
import json
import os
import shutil
import sys
import textwrap
from contextlib import suppress
from typing import Any

from edgesink.callbacks import Talk


def say(text: str) -> None:
    """Print a message for people to stderr, on a terminal broken at spaces; stdout is for the result."""
    if sys.stderr is None:
        return
    if sys.stderr.isatty():
        text = "\n".join(_broken(line, shutil.get_terminal_size().columns) for line in text.split("\n"))
    with suppress(OSError):  # nobody reads it, and the work goes on
        print(text, file=sys.stderr, flush=True)


def _broken(line: str, columns: int) -> str:
    """The line, or several where the terminal is narrower; they go on behind the first two spaces in it, as a table."""
    if len(line) < columns:
        return line
    indent = " " * (line.rfind("  ", 0, columns // 2) + 2) if "  " in line[: columns // 2] else ""
    return "\n".join(textwrap.wrap(line, columns - 1, subsequent_indent=indent, break_on_hyphens=False) or [line])


def take_any_encoding() -> None:
    """Characters that the terminal has not, and bytes that are no text, are replaced: a talk does not end for them."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def leave(code: int) -> None:
    """End the process; what a full or closed output still holds is dropped without a word."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


class Bar:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, unit: str = "tok") -> None:
        from tqdm import tqdm

        self._bar = tqdm(unit=unit, disable=None, leave=False, file=sys.stderr)
        self._name = ""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def show(self, name: str, done: int, total: int) -> None:
        """`done` of `total`."""
        if self._name != name:
            self._name = name
            self._bar.reset(total)
            self._bar.set_description(name)
        self._bar.update(done - self._bar.n)


def on_terminal() -> Talk:
    """What an export says, printed; its progress as a bar that is there from the first weight to the last."""
    bar: list[Bar] = []

    def draw(done: int, total: int, name: str) -> None:
        if not bar:
            bar.append(Bar("tensor"))
        bar[0].show("export", done, total)
        if done == total:
            bar.pop().close()

    return Talk(say, draw)


def print_json(data: Any, indent: int | None = 2) -> None:
    """The result as JSON, in ASCII where the output is not UTF-8; all in one line with the indent None."""
    encoding = (sys.stdout.encoding if sys.stdout else None) or "utf-8"
    print(json.dumps(data, indent=indent, ensure_ascii=codecs.lookup(encoding).name != "utf-8"))


def megabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.1f} MB"
