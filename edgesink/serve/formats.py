"""The form that an answer must have: free text, any JSON object, or JSON of a schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgesink.serve.api_error import ApiError
from edgesink.serve.grammar import ANY_OBJECT, schema_grammar


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
