"""The grammar of an answer that may or must call tools: text is free, a call keeps to its dialect and schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgesink.serve.api_error import ApiError
from edgesink.serve.dialects import Dialect
from edgesink.serve.grammar import styled
from edgesink.serve.tools import Tool, Toolbox

DEFINITIONS = frozenset({"$defs", "definitions"})  # of a JSON schema, which its references name from the top
MOST_CALLS = 8  # in a dialect's list

HEAD = "%llguidance {}"
TEXT = r"TEXT: /(.|\n)*/"
OTHER = r"OTHER: /[^{](.|\n)*/"  # text that is no JSON object


def tool_grammar(toolbox: Toolbox, marks: Mapping[str, int]) -> str:
    """The grammar in llguidance's form.

    Args:
        marks: those of the dialect's marks that are control tokens, which are no text to the library, and their ids.
    """
    dialect, is_must = toolbox.dialect, toolbox.choice == "required"
    call = f"call: %json {styled(_calls_schema(toolbox))}"
    if not dialect.begin:
        return "\n".join([HEAD, f"start: {'call' if is_must else 'call | OTHER'}", OTHER, call])
    begin, end = dialect.begin_mark, dialect.end_mark
    inner = (
        f"{_text(dialect.begin.removeprefix(begin))} call {_text(dialect.end.removesuffix(end))} {_mark(end, marks)}"
    )
    if is_must:
        return "\n".join([HEAD, f"start: {_mark(begin, marks)} {inner}", call])
    several = "tool* last" if toolbox.parallel and not dialect.is_list else "tool | last"
    tool = f"TEXT {_mark(begin, marks)}" if begin in marks else "trigger"
    rules = [HEAD, f"start: {several}", "last: TEXT", TEXT, f"tool: {tool} {inner}", call]
    return "\n".join(rules if begin in marks else [*rules, f"trigger[lazy]: TEXT {_text(begin)}"])


def _mark(mark: str, marks: Mapping[str, int]) -> str:
    return f"<[{marks[mark]}]>" if mark in marks else _text(mark)


def _text(text: str) -> str:
    return json.dumps(text) if text else ""


def _calls_schema(toolbox: Toolbox) -> dict[str, Any]:
    """The JSON schema of what stands between the marks."""
    call = _call_schema(toolbox.tools, toolbox.dialect)
    if not toolbox.dialect.is_list:
        return call
    defined = {name: call.pop(name) for name in DEFINITIONS.intersection(call)}
    most = MOST_CALLS if toolbox.parallel else 1
    return {"type": "array", "items": call, "minItems": 1, "maxItems": most, **defined}


def _call_schema(tools: Sequence[Tool], dialect: Dialect) -> dict[str, Any]:
    """The JSON schema of a call of one of the tools; what their own schemas define stands at its top."""
    calls, defined = [], dict[str, dict[str, Any]]()
    for tool in tools:
        parameters = dict(tool.parameters)
        for place in DEFINITIONS.intersection(parameters):
            for name, schema in dict(parameters.pop(place)).items():
                if defined.setdefault(place, {}).setdefault(name, schema) != schema:
                    raise ApiError(f"Two tools define {name[:60]!r} differently.", param="tools")
        call = {"name": {"const": tool.name}, dialect.arguments: parameters}
        calls.append({"type": "object", "properties": call, "required": list(call), "additionalProperties": False})
    return {**(calls[0] if len(calls) == 1 else {"anyOf": calls}), **defined}
