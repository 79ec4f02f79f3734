"""The session behind a chat at a terminal: opened before it, written after every exchange and however the chat ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgesink.cli.output import say
from edgesink.errors import EdgesinkError
from edgesink.runtime.sessions import Session

if TYPE_CHECKING:
    from edgesink.runtime.chat import Chat

ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a process: told to, or its terminal is closed."""

Save = Callable[[], None]
"""Writes the session; what goes wrong is said, and the talk goes on."""


@contextmanager
def kept(chat: Chat, name: str | Path | None, given: Mapping[str, object] | None = None) -> Iterator[Save]:
    """A conversation in a session: resumed, and saved however it ends, by its last message, an error or a signal.

    Args:
        name: of the session, or its path; None keeps nothing.
        given: what the user has set, as `Session.resume` takes it.

    Yields:
        what to call after every exchange.
    """
    if name is None:
        yield lambda: None
        return
    with Session.open(name) as session:
        for remark in session.resume(chat, given):
            say(f"({remark})")
        before = {number: signal.signal(number, _end) for number in ENDS}
        try:
            yield lambda: _save(session, chat)
        finally:
            try:
                session.save(chat)
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)


def _save(session: Session, chat: Chat) -> None:
    try:
        session.save(chat)
    except EdgesinkError as error:
        say(f"(not saved: {error})")


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)
