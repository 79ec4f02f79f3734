"""Ctrl-C while an answer is made: it stops between two chunks, so that the conversation stays whole.

Owns the signal while an answer is made. Python raises KeyboardInterrupt wherever it stands; here it is raised where the
stream has just finished a chunk of a message or a token of an answer. A second Ctrl-C does not wait.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edgesink.runtime.session import Stream


@contextmanager
def stoppable(stream: Stream, on_chunk: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Within it, Ctrl-C raises KeyboardInterrupt behind a chunk. `on_chunk` is called behind each, before that.

    Yields:
        what to call between two tokens, which does the same there.
    """
    asked = False

    def ask(*_: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def between_chunks() -> None:
        on_chunk()
        if asked:
            raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, ask) if is_main else None
    stream.on_chunk = between_chunks
    try:
        yield between_chunks
    finally:
        stream.on_chunk = None
        if is_main:
            signal.signal(signal.SIGINT, before)
