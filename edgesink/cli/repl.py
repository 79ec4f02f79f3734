"""The chat at a terminal: reads messages, shows answers as they come, keeps the conversation through Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgesink.cli.output import say
from edgesink.errors import EdgesinkError
from edgesink.paths import expanded
from edgesink.runtime.chat import Chat
from edgesink.runtime.generate import Token

REPLACED = "\ufffd"
ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a process: told to, or its terminal is closed."""

HELP = """/reset          start a new conversation
/save FILE      write the conversation's state to a file
/load FILE      resume from such a file
/status         how much is in memory, how much was forgotten
/quit           exit (or Ctrl-D); Ctrl-C stops an answer
A message that begins with / is sent with a space before it."""


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


def reply(chat: Chat, message: str, max_new_tokens: int | None) -> str:
    """Show the answer to a message, and say before it what of the message is forgotten by then. Returns as `show`."""
    size, lost = chat.forgotten(message)
    if lost:
        window = chat.stream.window
        say(f"(the message is {size} tokens and the window {window}: the answer does not see the first {lost})")
    return show(chat.answer(message, max_new_tokens))


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


def read_prompt() -> str:
    """All of stdin."""
    if sys.stdin is None:
        return ""
    if sys.stdin.isatty():
        say("(reading the prompt; Ctrl-D at the start of a line ends it)")
    text = sys.stdin.read()
    if REPLACED in text:
        say(f"(bytes that are no {sys.stdin.encoding} text are read as {REPLACED})")
    return text


def converse(chat: Chat, max_new_tokens: int | None) -> None:
    """Read messages from stdin until it ends."""
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if terminal:
        _line_editing()
        say(f"{chat.stream.manifest.name}; {_memory(chat)}; /help for commands")
    for message in _messages("> " if terminal else ""):
        if message.startswith("/"):
            if message.split()[0] in ("/quit", "/exit"):
                return
            _command(chat, message)
            continue
        try:
            text = message.removeprefix(" ") if message.startswith(" /") else message
            speed = reply(chat, text, max_new_tokens)
        except EdgesinkError as error:  # the conversation goes on
            say(str(error))
            continue
        if terminal:
            say(f"({speed}; {chat.stream.evicted} tokens forgotten)")


def _messages(prompt: str) -> Iterator[str]:
    """The lines of stdin that say something; none where there is no stdin."""
    while sys.stdin is not None:
        try:
            message = input(prompt)
        except EOFError:
            return
        except KeyboardInterrupt:
            say("(Ctrl-D or /quit exits)")
            continue
        if REPLACED in message:
            say(f"(bytes that are no {sys.stdin.encoding} text are read as {REPLACED})")
        if message.strip():
            yield message


def _command(chat: Chat, line: str) -> None:
    """No command ends the conversation."""
    name, _, argument = line.strip().partition(" ")
    try:
        if name == "/reset":
            chat.reset()
        elif name == "/save" and argument:
            chat.save(expanded(argument))
        elif name == "/load" and argument:
            chat.restore(expanded(argument))
        elif name == "/status":
            say(_memory(chat))
            return
        elif name == "/help":
            say(HELP)
            return
        else:
            say(f"{name} is no command, or lacks its FILE; /help lists them; to send it, put a space before it")
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
