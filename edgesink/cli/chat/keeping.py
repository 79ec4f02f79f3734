"""A conversation that is kept in a file from one run of the program to the next.

Owns when it is read and written. What the file holds is the runtime's.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgesink.cli.output import say
from edgesink.runtime.chat import Chat

ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a process: told to, or its terminal is closed."""


def resume(chat: Chat, session: Path, asks_for_sinks: str | None) -> None:
    """Go on from a session file, and say which options it overrules.

    Args:
        asks_for_sinks: the option that set the sinks which the stream has now.
    """
    asked = chat.stream.sinks
    chat.restore(session)
    sinks = chat.stream.sinks
    if asks_for_sinks and sinks != asked:
        say(f"({asks_for_sinks} is ignored: {session} keeps the {sinks} sinks that it began with, not {asked})")
    if chat.begins_with_system and chat.stream.position:
        say(f"(--system is ignored: {session} keeps the system prompt that it began with, until /reset)")


@contextmanager
def kept(chat: Chat, session: Path | None) -> Iterator[None]:
    """A conversation that is saved to `session` however it ends: by its last message, an error or a signal."""
    if session is None:
        yield
        return
    before = {number: signal.signal(number, _end) for number in ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        chat.save(session)


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)
