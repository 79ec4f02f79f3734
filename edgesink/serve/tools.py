"""Tools that a client offers: told to the model, and its calls read out of its answer.

Owns the way between OpenAI's JSON and a dialect's text, in both directions: what a client sends back is written as the
model wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgesink.serve.api_error import ApiError
from edgesink.serve.dialects import Dialect

MOST = 128  # tools of a request

Choice = Literal["auto", "required"]


@dataclass(frozen=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]  # a JSON schema


@dataclass(frozen=True)
class Call:
    """A call of one."""

    name: str
    arguments: str  # JSON


@dataclass(frozen=True)
class Toolbox:
    """The tools of a request in a model's dialect."""

    tools: tuple[Tool, ...]
    choice: Choice
    parallel: bool  # several calls in an answer
    dialect: Dialect

    @property
    def system(self) -> str:
        """What the model is told."""
        lines = "\n".join(_tool_json(tool) for tool in self.tools)
        return self.dialect.system.replace("TOOLS", lines)


def split(answer: str, dialect: Dialect) -> tuple[str, list[Call]]:
    """The text of an answer and its calls, as far as it can be read as such."""
    trigger = dialect.begin_mark
    if not trigger:
        calls = _calls(answer, dialect) if answer.lstrip().startswith("{") else None
        return ("", calls) if calls else (answer, [])
    text, *pieces = answer.split(trigger)
    found: list[Call] = []
    for piece in pieces:
        body, _, behind = piece.partition(dialect.end_mark) if dialect.end else (piece, "", "")
        calls = _calls(body, dialect)
        if calls is None:  # cut short, or something else
            text += trigger + piece
        else:
            found += calls
            text += behind
    return (text.strip() if found else text), found


def written(text: str, calls: Sequence[Call], dialect: Dialect) -> str:
    """An answer of text and calls as the model writes it."""
    if not calls:
        return text
    objects = [
        json.dumps({"name": call.name, dialect.arguments: _parsed(call.arguments)}, ensure_ascii=False)
        for call in calls
    ]
    bodies = [f"[{', '.join(objects)}]"] if dialect.is_list else objects
    marked = "\n".join(f"{dialect.begin}{body}{dialect.end}" for body in bodies)
    return f"{text.strip()}\n{marked}" if text.strip() else marked


def canonical(answer: str, dialect: Dialect) -> str:
    """An answer as it will be written when a client sends it back."""
    return written(*split(answer, dialect), dialect)


def read_tools(raw: Any, choice: Any, parallel: bool, dialect: Dialect, nested: bool = True) -> Toolbox | None:
    """The tools of a request; None if there are none to be used. `nested`: a function stands in its own object."""
    if raw is None or raw == []:
        if choice not in (None, "none", "auto"):
            raise ApiError("tool_choice without tools.", param="tool_choice")
        return None
    if not isinstance(raw, list) or len(raw) > MOST:
        raise ApiError(f"tools is not a list of at most {MOST} tools.", param="tools")
    tools = tuple(_tool(item, number, nested) for number, item in enumerate(raw))
    if choice == "none":
        return None
    if isinstance(choice, dict):
        named = choice.get("function", {}) if nested else choice
        name = named.get("name") if isinstance(named, dict) else None
        tools = tuple(tool for tool in tools if tool.name == name)
        if choice.get("type") != "function" or not tools:
            raise ApiError("tool_choice names no tool of the request.", param="tool_choice")
        return Toolbox(tools, "required", False, dialect)
    if choice not in (None, "auto", "required"):
        raise ApiError("tool_choice is not auto, none, required or a function.", param="tool_choice")
    return Toolbox(tools, "required" if choice == "required" else "auto", parallel, dialect)


def _tool(item: Any, number: int, nested: bool) -> Tool:
    where = f"tools[{number}]"
    if not isinstance(item, dict) or item.get("type") != "function":
        raise ApiError(f"{where} is not of type function, the only one supported.", param=where)
    function = item.get("function") if nested else item
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name or len(name) > 64:
        raise ApiError(f"{where} has no function with a name of 1 to 64 characters.", param=where)
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    description = function.get("description") or ""
    if not isinstance(parameters, dict) or not isinstance(description, str):
        raise ApiError(f"{where} has parameters or a description of a wrong type.", param=where)
    return Tool(name, description, parameters)


def _tool_json(tool: Tool) -> str:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return json.dumps({"type": "function", "function": function}, ensure_ascii=False)


def _calls(body: str, dialect: Dialect) -> list[Call] | None:
    """The calls of a JSON text; None if it is no such."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return None
    found = []
    for item in data if isinstance(data, list) else [data]:
        arguments = item.get(dialect.arguments) if isinstance(item, dict) else None
        if not isinstance(arguments, dict) or not isinstance(item.get("name"), str):
            return None
        found.append(Call(item["name"], json.dumps(arguments, ensure_ascii=False)))
    return found or None


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


class CallFilter:
    """Lets the text of an answer through as it comes, and holds back what is or may become a call.

    Args:
        dialect: None where there are no tools: all is text.
    """

    def __init__(self, dialect: Dialect | None) -> None:
        self._dialect, self._trigger = dialect, dialect.begin_mark if dialect else ""
        self._all, self._shown = "", 0

    def push(self, text: str) -> str:
        """What may be shown after some more text."""
        if self._dialect is None:
            return text
        self._all += text
        return self._show(self._certain())

    def finish(self) -> tuple[str, list[Call]]:
        """The rest of the text, and the calls."""
        if self._dialect is None:
            return "", []
        text, calls = split(self._all, self._dialect)
        if not calls:
            return self._show(len(self._all)), []
        shown = self._all[: self._shown].strip()
        return text.removeprefix(shown) if text.startswith(shown) else "", calls

    def _certain(self) -> int:
        """Characters that cannot be of a call."""
        if not self._trigger:
            begun = self._all.lstrip()
            return 0 if not begun or begun.startswith("{") else len(self._all)
        at = self._all.find(self._trigger)
        if at >= 0:
            return at
        ends = (size for size in range(1, len(self._trigger)) if self._all.endswith(self._trigger[:size]))
        return len(self._all) - max(ends, default=0)

    def _show(self, until: int) -> str:
        shown, self._shown = self._all[self._shown : until], max(self._shown, until)
        return shown
