"""Where messages come from: a prompt with editing and history, a plain prompt, or the lines of a pipe.

Owns how a message is typed: Enter sends; Alt-Enter, or a backslash at the end of a line, begins another line; pasted
lines are one message. The history is the user's alone, in one file of bounded size. Knows no conversation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgesink.cli.output import say
from edgesink.errors import reason
from edgesink.paths import state_folder

if TYPE_CHECKING:
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

REPLACED = "\ufffd"
HISTORY_BYTES = 1 << 20  # at most, when a chat begins; older messages are dropped


class Prompt(Protocol):
    """Where messages come from."""

    def ask(self, draft: str = "") -> str:
        """The next message, `draft` to begin with; EOFError at the end, KeyboardInterrupt by Ctrl-C."""


class TerminalPrompt:
    """A prompt with editing, history and a status line."""

    def __init__(self, status: Callable[[int], str], commands: Sequence[str]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.output import create_output
        from prompt_toolkit.styles import Style

        def toolbar() -> str:
            return status(self._session.output.get_size().columns)

        out = sys.stdout if sys.stdout is not None and sys.stdout.isatty() else sys.stderr
        self._session: PromptSession[str] = PromptSession(
            multiline=True,
            key_bindings=_keys(),
            history=_history(),
            completer=WordCompleter(list(commands), sentence=True),
            complete_while_typing=False,
            prompt_continuation=lambda width, *_: " " * width,
            bottom_toolbar=toolbar,
            reserve_space_for_menu=0,
            style=Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack"}),
            output=create_output(stdout=out),
        )

    def ask(self, draft: str = "") -> str:
        """See `Prompt`."""
        return self._session.prompt("> ", default=draft)


class PlainPrompt:
    """One line after another, for terminals that cannot more and for `--plain`; a draft is shown before it."""

    def __init__(self) -> None:
        with suppress(ImportError):
            import readline  # noqa: F401  (its import gives input() editing)
        self._is_shown = sys.stdout is not None and sys.stdout.isatty()

    def ask(self, draft: str = "") -> str:
        """See `Prompt`."""
        if draft:
            say(f"(typed meanwhile: {draft})")
        lines = [self._line("> ")]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self._line("  "))
        message = "\n".join(lines)
        return f"{draft}\n{message}" if draft and message.strip() else message or draft

    def _line(self, prompt: str) -> str:
        if self._is_shown:
            return input(prompt)
        print(prompt, end="", file=sys.stderr, flush=True)  # stdout is for the answers
        return input()


class PipePrompt:
    """A message a line of stdin."""

    def ask(self, draft: str = "") -> str:
        """See `Prompt`."""
        if sys.stdin is None or not (line := sys.stdin.readline()):
            raise EOFError
        warn_of_replaced(line)
        return line.rstrip("\n")


def warn_of_replaced(text: str) -> None:
    """Say so if bytes of stdin were no text in its encoding."""
    if REPLACED in text:
        say(f"(bytes that are no {sys.stdin.encoding} text are read as {REPLACED})")


def read_all() -> str:
    """All of stdin."""
    if sys.stdin is None:
        return ""
    if sys.stdin.isatty():
        say("(reading the prompt; Ctrl-D at the start of a line ends it)")
    text = sys.stdin.read()
    warn_of_replaced(text)
    return text


def is_rich_terminal(plain: bool) -> bool:
    """Whether there is somebody at a terminal that can move its cursor."""
    there = sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty()
    return there and not plain and is_capable()


def is_capable() -> bool:
    """Whether the terminal can move its cursor."""
    return os.environ.get("TERM") not in ("dumb", "unknown")


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.current_line_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return keys


def _history() -> History:
    """The user's own file, readable by nobody else; without one, history lasts as long as the chat."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = state_folder("history") / "messages"
    try:
        _make_private(path)
    except OSError as error:
        say(f"(no history is kept: {path}: {reason(error)})")
        return InMemoryHistory()
    return FileHistory(str(path))


def _make_private(path: Path) -> None:
    """Make the file if there is none, and cut it to its newest part if it is too long."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)
    text = path.read_bytes()
    if len(text) > HISTORY_BYTES:
        newest = text[-HISTORY_BYTES // 2 :]
        path.write_bytes(newest[max(0, newest.find(b"\n# ")) :])  # from the beginning of a message on
