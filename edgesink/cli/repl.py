"""The chat at a terminal: reads messages, shows answers as they come, keeps the conversation through Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from edgesink.cli.output import say
from edgesink.errors import EdgesinkError
from edgesink.runtime.chat import Chat
from edgesink.runtime.generate import Token

HELP = """/reset          start a new conversation
/save FILE      write the conversation's state to a file
/load FILE      resume from such a file
/status         how much is in memory, how much was forgotten
/quit           exit (or Ctrl-D); Ctrl-C stops an answer"""


def show(tokens: Iterable[Token]) -> str:
    """Print an answer to stdout as it comes. Ctrl-C ends it. Returns its tokens per second, for people."""
    start, first, count = time.perf_counter(), 0.0, 0
    try:
        for token in tokens:
            first = first or time.perf_counter()
            count += 1
            print(token.text, end="", flush=True)
    except KeyboardInterrupt:
        print(" …", end="")
    print(flush=True)
    if count < 2:
        return ""
    return f"{(count - 1) / (time.perf_counter() - first):.0f} tokens/s, first after {first - start:.2f} s"


def converse(chat: Chat, max_new_tokens: int | None) -> None:
    """Read messages from stdin until it ends."""
    terminal = sys.stdin.isatty()
    if terminal:
        _line_editing()
        say(f"{chat.stream.manifest.name}; {_memory(chat)}; /help for commands")
    while True:
        try:
            message = input("> " if terminal else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            say("(Ctrl-D or /quit exits)")
            continue
        if not message.strip():
            continue
        if message.startswith("/"):
            if message.strip() in ("/quit", "/exit"):
                return
            _command(chat, message)
            continue
        speed = show(chat.answer(message, max_new_tokens))
        if terminal:
            say(f"({speed}; {chat.stream.evicted} tokens forgotten)")


def _command(chat: Chat, line: str) -> None:
    name, _, argument = line.strip().partition(" ")
    try:
        if name == "/reset":
            chat.reset()
        elif name == "/save" and argument:
            chat.save(Path(argument))
        elif name == "/load" and argument:
            chat.restore(Path(argument))
        elif name == "/status":
            say(_memory(chat))
            return
        else:
            say(HELP)
            return
    except EdgesinkError as error:
        say(str(error))
        return
    say("done")


def _memory(chat: Chat) -> str:
    stream = chat.stream
    return (
        f"{min(stream.position, stream.capacity)} of {stream.capacity} tokens held ({stream.sinks} pinned), "
        f"{stream.evicted} forgotten, {stream.state_bytes / 1e6:.1f} MB of state"
    )


def _line_editing() -> None:
    with suppress(ImportError):
        import readline  # noqa: F401  (its import gives input() history and editing)
