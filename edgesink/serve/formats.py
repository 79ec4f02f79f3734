"""The form that an answer must have: free text, any JSON object, JSON of a schema, or calls of tools."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgesink.serve.answering import Wanted
from edgesink.serve.api_error import ApiError
from edgesink.serve.grammar import ANY_OBJECT, schema_grammar
from edgesink.serve.service import Service
from edgesink.serve.tool_grammar import tool_grammar
from edgesink.serve.tools import Toolbox


def format_grammar(form: Any, param: str, nested: bool) -> str | None:
    """The grammar that a format asks for; None for free text.

    Args:
        form: as `response_format` of chat completions has it (`nested`: the schema is in an object `json_schema`), or
            `text.format` of responses.
    """
    if form is None:
        return None
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return schema_grammar(ANY_OBJECT, param)
    if kind != "json_schema":
        raise ApiError(f"{param}.type is not text, json_object or json_schema.", param=param)
    holder = form.get("json_schema") if nested else form
    schema = holder.get("schema") if isinstance(holder, Mapping) else None
    if not isinstance(schema, dict):
        raise ApiError(f"{param} has no schema.", param=param)
    return schema_grammar(schema, param)


def constrained(service: Service, asked: Wanted, form: str | None, param: str, toolbox: Toolbox | None) -> Wanted:
    """The same within a grammar, of calls or of a format, which came in the field `param`."""
    if form is not None and toolbox is not None:
        raise ApiError("A JSON format together with tools is not supported.", param=param)
    if form is not None:
        return dataclasses.replace(asked, matcher=service.grammars.matcher_of(form, param))
    if toolbox is None:
        return asked
    controls = service.grammars.controls((toolbox.dialect.begin_mark, toolbox.dialect.end_mark))
    matcher = service.grammars.matcher_of(tool_grammar(toolbox, controls), "tools")
    silent = {id_: mark for mark, id_ in controls.items() if service.tokenizer.is_special(mark)}
    return dataclasses.replace(asked, matcher=matcher, marks=silent)
