"""The chat at a terminal: reads messages, shows answers as they come, keeps the conversation through Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

from edgesink.cli.keeping import Save
from edgesink.cli.output import say
from edgesink.errors import EdgesinkError
from edgesink.paths import expanded
from edgesink.runtime.chat import Chat
from edgesink.runtime.generate import Token
from edgesink.runtime.sessions import take_up, write_session_file

REPLACED = "\ufffd"

HELP = """/reset          start a new conversation
/save FILE      write a copy of the conversation to a file
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


def converse(chat: Chat, max_new_tokens: int | None, save: Save) -> None:
    """Read messages from stdin until it ends; `save` is called after every one."""
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if terminal:
        _line_editing()
        say(f"{chat.stream.manifest.name}; {_memory(chat)}; /help for commands")
    for message in _messages("> " if terminal else ""):
        if message.startswith("/"):
            if message.split()[0] in ("/quit", "/exit"):
                return
            _command(chat, message)
            save()
            continue
        try:
            text = message.removeprefix(" ") if message.startswith(" /") else message
            speed = reply(chat, text, max_new_tokens)
        except EdgesinkError as error:  # the conversation goes on
            say(str(error))
            continue
        finally:
            save()
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
            write_session_file(expanded(argument), chat)
        elif name == "/load" and argument:
            for remark in take_up(chat, expanded(argument))[0]:
                say(f"({remark})")
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
