"""`POST /v1/responses`: what is asked. A request may go on from an earlier response by its id."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgesink.serve.answering import Wanted
from edgesink.serve.api_error import ApiError
from edgesink.serve.fields import Fields, check_neutral
from edgesink.serve.formats import constrained, format_grammar
from edgesink.serve.history import History
from edgesink.serve.messages import HistoryReader
from edgesink.serve.options import SAMPLING, include_usage, recall, wanted
from edgesink.serve.prompts import ChatPrompt
from edgesink.serve.service import Service
from edgesink.serve.tools import Toolbox, read_tools

KNOWN = SAMPLING | {
    "model", "input", "instructions", "previous_response_id", "stream", "stream_options", "max_output_tokens", "text",
    "tools", "tool_choice", "parallel_tool_calls", "edgesink",
}  # fmt: skip
MOST_REMEMBERED = 10_000  # ids of responses


@dataclass(frozen=True)
class Told:
    """What an earlier response goes by."""

    key: str  # of its conversation
    instructions: str | None
    system: str | None  # with the tools


class Responses:
    """Earlier responses by their ids; the conversations themselves are kept elsewhere, and may be gone."""

    def __init__(self) -> None:
        self._told: OrderedDict[str, Told] = OrderedDict()

    def add(self, id_: str, told: Told) -> None:
        """The oldest is forgotten for it."""
        self._told[id_] = told
        while len(self._told) > MOST_REMEMBERED:
            self._told.popitem(last=False)

    def get(self, id_: str | None) -> Told | None:
        """None for no id; ApiError for one that is not known."""
        if id_ is None:
            return None
        if id_ not in self._told:
            raise ApiError(
                "The previous response is not known here.", 404, "previous_response_id", "response_not_found"
            )
        return self._told[id_]


@dataclass(frozen=True)
class ResponseRequest:
    """What is asked."""

    prompt: ChatPrompt
    wanted: Wanted
    toolbox: Toolbox | None
    stream: bool
    instructions: str | None
    echoed: Mapping[str, Any]  # fields that a response repeats


def read_request(service: Service, earlier: Responses, body: bytes) -> ResponseRequest:
    """ApiError says what is wrong with it."""
    fields = Fields(body, KNOWN)
    service.check_model(fields)
    writer, dialect = service.require_writer(), service.dialect
    told = earlier.get(fields.text("previous_response_id"))
    instructions = fields.text("instructions")
    if instructions is None and told is not None:
        instructions = told.instructions
    parallel = fields.flag("parallel_tool_calls", default=True)
    toolbox = read_tools(fields.raw("tools"), fields.raw("tool_choice"), parallel, dialect, nested=False)
    reader = HistoryReader(dialect)
    if instructions is not None:
        reader.add({"role": "system", "content": instructions}, "instructions")
    _read_input(reader, fields.raw("input"), service.settings.limits.messages)
    history = reader.history(toolbox.system if toolbox else "", writer.takes_system, told.key if told else None)
    _check_same(history, told)
    writer.check(history)
    asked = wanted(fields, service.sampling, service.settings.limits.answer_tokens, ("max_output_tokens",))
    asked = dataclasses.replace(asked, recall=recall(fields, service.memories is not None))
    form = _text_format(fields)
    asked = constrained(service, asked, format_grammar(form, "text.format", False), "text.format", toolbox)
    include_usage(fields)  # which every response has
    echoed = {
        "instructions": instructions, "max_output_tokens": fields.raw("max_output_tokens"),
        "metadata": fields.raw("metadata") or {}, "parallel_tool_calls": parallel,
        "previous_response_id": fields.raw("previous_response_id"), "store": bool(fields.raw("store")),
        "temperature": asked.sampling.temperature, "text": {"format": form or {"type": "text"}},
        "tool_choice": fields.raw("tool_choice") or "auto", "tools": fields.raw("tools") or [],
        "top_p": asked.sampling.top_p, "truncation": "disabled", "user": fields.raw("user"),
        "reasoning": {"effort": None, "summary": None},
    }  # fmt: skip
    prompt = ChatPrompt(history, writer, dialect)
    return ResponseRequest(prompt, asked, toolbox, fields.flag("stream"), instructions, echoed)


def _text_format(fields: Fields) -> Any:
    text = fields.inner("text", {"format", "verbosity"})
    if "verbosity" in text:
        check_neutral("verbosity", text["verbosity"], "text.verbosity")
    return text.get("format")


def _check_same(history: History, told: Told | None) -> None:
    """A conversation keeps the instructions and tools that it began with: the model has read them."""
    if told is not None and history.system != told.system:
        message = (
            "instructions and tools cannot change in a conversation. Begin a new one, without previous_response_id."
        )
        raise ApiError(message, param="instructions")


def _read_input(reader: HistoryReader, given: Any, most: int) -> None:
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not 0 < len(given) <= most:
        raise ApiError(f"input is not a text or a list of 1 to {most} items.", param="input")
    for number, item in enumerate(given):
        where = f"input[{number}]"
        if not isinstance(item, dict):
            raise ApiError(f"{where} is not an object.", param=where)
        reader.add(_message(item, where), where)


def _message(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    """An item as a message of a chat completion."""
    kind = item.get("type", "message")
    if kind == "message":
        return {name: item[name] for name in item if name not in ("type", "id", "status", "phase")}
    if kind == "function_call":
        call = {"id": item.get("call_id"), "function": {"name": item.get("name"), "arguments": item.get("arguments")}}
        return {"role": "assistant", "tool_calls": [call]}
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    raise ApiError(f"{where} is of the type {str(kind)[:40]!r}, which is not supported.", param=where)
