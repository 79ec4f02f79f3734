"""Messages as OpenAI's clients send them, checked and made into a history of plain text.

Refuses what a model of text cannot read (images, audio) and what its turns cannot hold, by the message's number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgesink.serve.api_error import ApiError
from edgesink.serve.dialects import Dialect
from edgesink.serve.history import History
from edgesink.serve.tools import Call, written

SYSTEM_ROLES = ("system", "developer")
ROLES = (*SYSTEM_ROLES, "user", "assistant", "tool")
KNOWN = frozenset({
    "role", "content", "name", "refusal", "annotations", "tool_calls", "tool_call_id", "edgesink",
})  # fmt: skip
TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


class HistoryReader:
    """Takes messages one by one.

    Args:
        dialect: in which calls of tools and their results become text.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._system: list[str] = []
        self._users: list[str] = []
        self._answers: list[str] = []
        self._from_tools: set[int] = set()  # places in `users`
        self._open = ""  # the role that the last message was of
        self._called: dict[str, str] = {}  # id of a call -> name of the tool

    def add(self, message: Any, where: str) -> None:
        """ApiError names `where` if the message cannot stand here."""
        role = _role(message, where)
        text = text_of(message.get("content"), where)
        if role in SYSTEM_ROLES:
            if self._users:
                raise ApiError(f"{where} is a system message behind the first of the user.", param=where)
            self._system.append(text)
        elif role == "assistant":
            text += _refusal(message, where)
            self._answer(written(text, self._calls(message.get("tool_calls"), where), self._dialect), where)
        else:
            joint = "\n" if role == self._open == "tool" else "\n\n"
            if role == "tool":
                self._from_tools.add(len(self._answers))
            self._user(self._result(message, text) if role == "tool" else text, joint)
        self._open = role

    def history(self, more_system: str = "", takes_system: bool = True, base: str | None = None) -> History:
        """All of it; `more_system` is told behind the system prompt, or in the first message if there can be none."""
        if len(self._users) != len(self._answers) + 1:
            raise ApiError("The last message is not of the user or a tool.", param="messages")
        system = [*self._system, *([more_system] if more_system and takes_system else [])]
        users = list(self._users)
        if more_system and not takes_system:
            users[0] = f"{more_system}\n\n{users[0]}"
        told = "\n\n".join(system) if system else None
        return History(told, tuple(users), tuple(self._answers), base, frozenset(self._from_tools))

    def _user(self, text: str, joint: str) -> None:
        if len(self._users) > len(self._answers):  # two in a row are one
            self._users[-1] += joint + text
        else:
            self._users.append(text)

    def _answer(self, text: str, where: str) -> None:
        if not self._users:
            raise ApiError(f"{where} is an answer to nothing.", param=where)
        if len(self._users) == len(self._answers):  # calls and text may come as two messages
            self._answers[-1] = f"{self._answers[-1]}\n{text}"
        else:
            self._answers.append(text)

    def _calls(self, raw: Any, where: str) -> list[Call]:
        if raw is None:
            return []
        calls = []
        for item in raw if isinstance(raw, list) else [raw]:
            function = item.get("function") if isinstance(item, dict) else None
            name, arguments = (
                (function.get(key) for key in ("name", "arguments")) if isinstance(function, dict) else (0, 0)
            )
            if not isinstance(name, str) or not isinstance(arguments, str):
                raise ApiError(f"{where}.tool_calls has one that is not a function with arguments.", param=where)
            self._called[str(item.get("id"))] = name
            calls.append(Call(name, arguments))
        return calls

    def _result(self, message: Mapping[str, Any], text: str) -> str:
        name = self._called.get(str(message.get("tool_call_id")), str(message.get("name") or "the function"))
        return self._dialect.result.replace("NAME", name).replace("RESULT", text)


def history_reader(messages: Any, most: int, dialect: Dialect) -> HistoryReader:
    """The messages of a chat completion, read."""
    if not isinstance(messages, list) or not messages:
        raise ApiError("messages is not a list of messages.", param="messages")
    if len(messages) > most:
        raise ApiError(f"There are {len(messages)} messages, more than {most}.", param="messages")
    reader = HistoryReader(dialect)
    for number, message in enumerate(messages):
        reader.add(message, f"messages[{number}]")
    return reader


def _role(message: Any, where: str) -> str:
    if not isinstance(message, dict):
        raise ApiError(f"{where} is not an object.", param=where)
    role = message.get("role")
    if role not in ROLES:
        raise ApiError(f"{where}.role is {json.dumps(role)[:40]}, not {', '.join(ROLES)}.", param=where)
    given = {name for name, value in message.items() if value is not None}
    if unknown := sorted(given - KNOWN):
        raise ApiError(f"{where}.{unknown[0][:40]} is not supported.", param=where)
    return str(role)


def _refusal(message: Mapping[str, Any], where: str) -> str:
    """What an answer said instead of an answer, which is text to a model."""
    refusal = message.get("refusal")
    if refusal is not None and not isinstance(refusal, str):
        raise ApiError(f"{where}.refusal is not a string.", param=where)
    return refusal or ""


def text_of(content: Any, where: str) -> str:
    """The text of a message's content, a string or a list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ApiError(f"{where}.content is not text.", param=where)
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, dict) else None
        if kind not in TEXT_PARTS or not isinstance(text, str):
            named = json.dumps(kind)[:40]
            raise ApiError(f"{where}.content has a part of type {named}, and this model reads text.", param=where)
        texts.append(text)
    return "".join(texts)
