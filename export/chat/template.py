"""A chat template that renders conversations: text, or the reason why there is none.

Owns the marks that stand for what is said, and how a conversation is given to a template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

import jinja2.nodes

from edgesink.errors import EdgesinkError, first_line
from edgesink.export.chat.environment import environment
from edgesink.turns import format_date, unknown_directive

LONGEST = 1 << 20  # characters of a rendering of a few short messages; more is a template that does not end well

SYSTEM = "\ue2f0system\ue2f1"
MARK = re.compile("\ue2f0([a-z]+)([0-9]*)\ue2f1")

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}."""


class NoTurns(EdgesinkError):
    """The template cannot be cut into turns; says why."""


def mark(name: str, number: int) -> str:
    """What stands for the message of the turn with this number, from 1; nobody writes it."""
    return f"\ue2f0{name}{number}\ue2f1"


def conversation(turns: int, system: str | None, user: str | None = None) -> list[Message]:
    """As many turns, the last answer still to come; marks where nothing else is given for the last message."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for number in range(1, turns + 1):
        messages.append({"role": "user", "content": mark("user", number)})
        messages.append({"role": "assistant", "content": mark("answer", number)})
    if user is not None:
        messages[-2]["content"] = user
    return messages[:-1]


class Template:
    """A chat template with the special tokens that the tokenizer declares."""

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        self.now: datetime | None = None  # None: a mark stands for the date
        self.dates: list[str] = []  # formats, in the order of their marks
        self._special, self._source = special, source
        self._environment = environment(self._date)
        try:
            self._template = self._environment.from_string(source)
        except Exception as error:
            raise NoTurns(f"its chat template cannot be read: {_words(error)}") from None

    def render(self, messages: Sequence[Message], prompting: bool = True) -> str:
        """The text of a whole conversation, `prompting` with the opening of an answer; NoTurns if there is none."""
        text = ""
        try:
            for part in self._template.generate(
                messages=[dict(message) for message in messages], tools=None, documents=None,
                add_generation_prompt=prompting, **self._special,
            ):  # fmt: skip
                text += part
                if len(text) > LONGEST:
                    raise NoTurns(f"its chat template writes more than {LONGEST} characters")
        except NoTurns:
            raise
        except Exception as error:  # whatever a template's author can do wrong
            raise NoTurns(f"its chat template says: {_words(error)}") from None
        return text

    def literals(self) -> set[str]:
        """Texts that the template writes, and strings in it."""
        tree = self._environment.parse(self._source)
        found = {node.data for node in tree.find_all(jinja2.nodes.TemplateData)}
        return found | _strings(tree)

    def questions(self) -> set[str]:
        """Strings that the template compares with something, or gives to a function: it may look for them."""
        tree = self._environment.parse(self._source)
        kinds = (jinja2.nodes.Compare, jinja2.nodes.Call, jinja2.nodes.Filter, jinja2.nodes.Test)
        return {text for node in tree.find_all(kinds) for text in _strings(node) if text}

    def _date(self, form: str) -> str:
        if unknown := unknown_directive(form):
            raise NoTurns(f"its chat template writes a date with {unknown}")
        if self.now is not None:
            return format_date(form, self.now)
        if form not in self.dates:
            self.dates.append(form)
        return mark("date", self.dates.index(form))


def _words(error: Exception) -> str:
    """One line that can be shown: a template may say anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in first_line(error)[:200])


def _strings(tree: jinja2.nodes.Node) -> set[str]:
    return {node.value for node in tree.find_all(jinja2.nodes.Const) if isinstance(node.value, str)}
