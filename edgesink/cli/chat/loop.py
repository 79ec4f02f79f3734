"""A conversation from its first message to its last: message in, answer out, and nothing ends it but the user.

Owns the order: a message, a warning if it is longer than the window, the answer, and errors that leave the conversation
as it was. Where messages come from is a `Prompt`, where answers go a `View`, and a slash is a command.
"""

from __future__ import annotations

import sys

from edgesink.cli.chat.answers import MarkdownView, PlainView, View
from edgesink.cli.chat.commands import COMMANDS, run_command
from edgesink.cli.chat.prompts import PipePrompt, PlainPrompt, Prompt, TerminalPrompt, is_capable, is_rich_terminal
from edgesink.cli.chat.status import memory_words, status_line
from edgesink.cli.chat.talk import Talk
from edgesink.cli.chat.typed import Typed, termios
from edgesink.cli.keeping import Save
from edgesink.cli.output import say
from edgesink.errors import EdgesinkError
from edgesink.runtime.chat import Chat


def answer_once(chat: Chat, message: str, max_new_tokens: int | None, plain: bool) -> None:
    """Show the answer to one message, then its speed."""
    talk = Talk(chat, _view(plain), max_new_tokens)
    talk.answer(message)
    assert talk.spoken is not None
    say(f"({talk.spoken.words})")


def converse(chat: Chat, max_new_tokens: int | None, save: Save, plain: bool = False) -> None:
    """Answer messages until there are no more; `save` is called after every one."""
    rich = is_rich_terminal(plain)
    at_terminal = sys.stdin is not None and sys.stdin.isatty()
    typed = Typed() if at_terminal and termios is not None else None
    talk = Talk(chat, _view(plain), max_new_tokens, typed, can_draft=rich)
    prompt = _prompt(talk, rich, at_terminal)
    if at_terminal:
        numbers = "" if rich else f"; {memory_words(talk.gauges)}"  # which the status line has
        say(f"{chat.stream.manifest.name}{numbers}; /help for commands")
    while not talk.is_over:
        draft, talk.draft = talk.draft, ""
        try:
            message = prompt.ask(draft)
        except EOFError:
            return
        except KeyboardInterrupt:
            say("(Ctrl-D or /quit leaves)")
            continue
        if message.strip():
            try:
                _take(talk, message)
            finally:
                save()
            if at_terminal and not rich and talk.spoken is not None and not message.startswith("/"):
                say(f"({talk.spoken.words}; {chat.stream.evicted} tokens forgotten)")


def _take(talk: Talk, message: str) -> None:
    """A message or a command; an error is said, and the conversation goes on."""
    try:
        if message.startswith("/"):
            run_command(talk, message)
        else:
            talk.answer(message.removeprefix(" ") if message.startswith(" /") else message)
    except EdgesinkError as error:
        say(str(error))


def _prompt(talk: Talk, rich: bool, at_terminal: bool) -> Prompt:
    if rich:
        return TerminalPrompt(lambda width: status_line(talk.gauges, width), [one.name for one in COMMANDS])
    return PlainPrompt() if at_terminal else PipePrompt()


def _view(plain: bool) -> View:
    """Markdown where stdout is a terminal that can show it."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return MarkdownView() if is_terminal and not plain and is_capable() else PlainView()
