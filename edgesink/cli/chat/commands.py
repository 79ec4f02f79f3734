"""What a line that begins with a slash does: one table of commands.

Owns their names, their help and their effect on a conversation. A command never ends a conversation by an error, and
what is no command is said to be none. How messages and answers reach people is `loop`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from edgesink.cli.chat.status import memory_words
from edgesink.cli.chat.talk import Talk
from edgesink.cli.output import say
from edgesink.errors import BadOption
from edgesink.paths import expanded
from edgesink.runtime.sessions import take_up, write_session_file

Number = TypeVar("Number", int, float)
NONE = "none"
NUMBERS: dict[str, type[int] | type[float]] = {  # of /set
    "temperature": float, "top_k": int, "top_p": float, "min_p": float, "repetition_penalty": float,
    "repetition_window": int, "seed": int,
}  # fmt: skip
KEYS = """Enter sends; Alt-Enter, or \\ at the end of a line, begins another line.
Ctrl-C stops an answer, Ctrl-D leaves.
A message that begins with / is sent with a space before it."""


@dataclass(frozen=True)
class Command:
    """One line of the table."""

    name: str
    argument: str  # for people; "[…]" may be left out
    help: str
    run: Callable[[Talk, str], None]

    @property
    def needs_argument(self) -> bool:
        """Whether it is nothing without one."""
        return bool(self.argument) and not self.argument.startswith("[")


def run_command(talk: Talk, line: str) -> None:
    """Do what a line that begins with a slash says; EdgesinkError leaves the conversation as it was."""
    name, _, argument = line.strip().partition(" ")
    command = next((one for one in COMMANDS if one.name == OTHER_NAMES.get(name, name)), None)
    if command is None:
        say(f"{name} is no command; /help lists them. To send it as a message, put a space before it")
    elif command.needs_argument and not argument.strip():
        say(f"{name} needs {command.argument}: {command.help}")
    else:
        command.run(talk, argument.strip())


def _help(talk: Talk, _: str) -> None:
    width = max(len(f"{one.name} {one.argument}") for one in COMMANDS)
    say("\n".join([*(f"{f'{one.name} {one.argument}':<{width}}  {one.help}" for one in COMMANDS), KEYS]))


def _system(talk: Talk, text: str) -> None:
    if not text:
        say(f"system prompt: {talk.chat.system}" if talk.chat.system is not None else "there is no system prompt")
        return
    talk.chat.reset(None if text == NONE else text)
    say("(a new conversation begins, " + ("without a system prompt)" if text == NONE else f"with {_pins(talk)})"))


def _reset(talk: Talk, _: str) -> None:
    talk.chat.reset()
    say(f"(a new conversation begins, with {_pins(talk)})")


def _save(talk: Talk, file: str) -> None:
    write_session_file(expanded(file), talk.chat)
    say(f"(a copy is in {file}; /load {file} goes on from here)")


def _load(talk: Talk, file: str) -> None:
    for remark in take_up(talk.chat, expanded(file))[0]:
        say(f"({remark})")
    say(f"(going on from {file}: {memory_words(talk.gauges)})")


def _retry(talk: Talk, _: str) -> None:
    message = talk.last_message()
    if talk.chat.sampling.temperature == 0:
        say("(at temperature 0 the answer is the same again; /set temperature 0.7 gives others)")
    talk.speak(lambda: talk.chat.retry(talk.max_new_tokens), message)


def _undo(talk: Talk, _: str) -> None:
    message = talk.chat.undo()
    say(f"(taken back, as if it had never been: {_short(message)})")


def _edit(talk: Talk, text: str) -> None:
    if text:
        talk.last_message()
        talk.speak(lambda: talk.chat.edit(text, talk.max_new_tokens), text)
        return
    if not talk.can_draft:
        raise BadOption("/edit alone", "/edit TEXT, which takes the place of the last message")
    talk.draft = talk.chat.undo()
    say("(the last message is taken back; change it and send it)")


def _set(talk: Talk, words: str) -> None:
    name, _, value = words.replace("=", " ").partition(" ")
    name, value = name.replace("-", "_"), value.strip()
    if not name:
        values = dataclasses.asdict(talk.chat.sampling) | {"max_new_tokens": talk.max_new_tokens}
        say("\n".join(f"{one} {NONE if number is None else number}" for one, number in values.items()))
    elif name == "max_new_tokens":
        talk.max_new_tokens = None if value == NONE else _number(name, value, int)
        say(f"({name} {value})")
    elif name in NUMBERS:
        is_none = name == "seed" and value == NONE
        talk.chat.set_sampling(**{name: None if is_none else _number(name, value, NUMBERS[name])})
        say(f"({talk.chat.sampling.words})")
    else:
        raise BadOption(f"/set {name}", f"one of {', '.join([*NUMBERS, 'max_new_tokens'])}")


def _stats(talk: Talk, _: str) -> None:
    chat, stream = talk.chat, talk.chat.stream
    speed = "no answer yet" if talk.spoken is None else talk.spoken.words or "one token"
    lines = {
        "model": stream.manifest.name,
        "runs on": stream.runner,
        "memory": memory_words(talk.gauges),
        "stream": f"{stream.position} tokens so far, without a limit",
        "turns": f"{len(chat.turns)}; {chat.undoable} of the last exchanges can be taken back",
        "sampling": chat.sampling.words,
        "speed": speed,
    }
    say("\n".join(f"{name:<9} {value}" for name, value in lines.items()))


def _sinks(talk: Talk, number: str) -> None:
    if number:
        talk.chat.stream.reset(sinks=_number("sinks", number, int))
        talk.chat.reset()
        say(f"(a new conversation begins, with {_pins(talk)})")
        return
    why = f"; {talk.chat.unpinned}" if talk.chat.unpinned else ""
    say(f"{_pins(talk)}, at most {talk.chat.stream.manifest.stream.max_sinks} can be; /sinks N begins anew with N{why}")


def _memory(talk: Talk, _: str) -> None:
    from edgesink.cli.memory import why
    from edgesink.memory.memory import Memory

    memory = talk.chat.memory
    if not isinstance(memory, Memory):
        say("there is no memory beyond the window: what is forgotten is gone. --session or --memory turns it on")
        return
    if memory.trouble:
        say(memory.trouble)
    if not memory.is_off:
        archive = memory.archive
        say(f"{archive.count} passages in {archive.path}, {archive.bytes / (1 << 20):.1f} MiB")
        say(why(memory.recalled) if memory.recalled else "nothing has come back yet")


def _quit(talk: Talk, _: str) -> None:
    talk.is_over = True


def _pins(talk: Talk) -> str:
    sinks = talk.chat.stream.sinks
    return f"the first {sinks} tokens pinned" if sinks else "nothing pinned"


def _number(name: str, text: str, kind: type[Number]) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise BadOption(f"{name} {text!r}", "a whole number" if kind is int else "a number") from None


def _short(text: str, most: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]} …"


COMMANDS: tuple[Command, ...] = (
    Command("/help", "", "show the commands", _help),
    Command(
        "/system", "[TEXT]", "show the system prompt; with TEXT (or none) begin a new conversation with it", _system
    ),
    Command("/reset", "", "begin a new conversation with the same system prompt", _reset),
    Command("/save", "FILE", "write a copy of the conversation to FILE", _save),
    Command("/load", "FILE", "go on from a file that /save wrote", _load),
    Command("/retry", "", "take back the last answer and give another", _retry),
    Command("/undo", "", "take back the last message and its answer, exactly", _undo),
    Command("/edit", "[TEXT]", "take back the last message and send TEXT, or edit it, in its place", _edit),
    Command("/set", "[NAME VALUE]", "show how tokens are chosen; change temperature, top_k, top_p, min_p …", _set),
    Command("/stats", "", "what is held, what was forgotten, speed and memory", _stats),
    Command("/sinks", "[N]", "how many first tokens are pinned; with N begin anew with N", _sinks),
    Command("/memory", "", "what came back from beyond the window, and why", _memory),
    Command("/quit", "", "leave (or Ctrl-D)", _quit),
)
OTHER_NAMES = {"/exit": "/quit", "/status": "/stats", "/?": "/help"}
