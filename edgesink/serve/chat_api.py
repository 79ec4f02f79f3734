"""`POST /v1/chat/completions`: what is asked, and its answer as OpenAI writes it."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgesink.serve.answering import Begun, Delta, Event, Finished, Wanted
from edgesink.serve.api_error import ApiError
from edgesink.serve.fields import Fields
from edgesink.serve.formats import format_grammar
from edgesink.serve.messages import history_reader
from edgesink.serve.options import SAMPLING, wanted
from edgesink.serve.prompts import ChatPrompt
from edgesink.serve.service import Service
from edgesink.serve.tool_grammar import tool_grammar
from edgesink.serve.tools import Call, CallFilter, Toolbox, canonical, read_tools
from edgesink.serve.writing import chances_json, sse, usage_json

LIMITS = ("max_completion_tokens", "max_tokens")
KNOWN = SAMPLING | {
    "model", "messages", "stream", "stream_options", "stop", "logprobs", "top_logprobs", "response_format", "tools",
    "tool_choice", "parallel_tool_calls", *LIMITS,
}  # fmt: skip


@dataclass(frozen=True)
class ChatRequest:
    """What is asked."""

    prompt: ChatPrompt
    wanted: Wanted
    toolbox: Toolbox | None
    stream: bool
    include_usage: bool


def read_request(service: Service, body: bytes) -> ChatRequest:
    """ApiError says what is wrong with it."""
    fields = Fields(body, KNOWN)
    service.check_model(fields)
    writer, dialect = service.require_writer(), service.dialect
    parallel = fields.raw("parallel_tool_calls") is None or fields.flag("parallel_tool_calls")
    toolbox = read_tools(fields.raw("tools"), fields.raw("tool_choice"), parallel, dialect)
    reader = history_reader(fields.raw("messages"), service.settings.limits.messages, dialect)
    history = reader.history(toolbox.system if toolbox else "", writer.takes_system)
    writer.check(history)
    asked = wanted(fields, service.sampling, service.settings.limits.answer_tokens, LIMITS)
    asked = dataclasses.replace(asked, chances=_chances(fields))
    asked = constrained(service, asked, format_grammar(fields.raw("response_format"), "response_format", True), toolbox)
    options = fields.inner("stream_options", {"include_usage", "include_obfuscation"})
    return ChatRequest(
        ChatPrompt(history, writer, lambda answer: canonical(answer, dialect)),
        asked, toolbox, fields.flag("stream"), options.get("include_usage") is True,
    )  # fmt: skip


def constrained(service: Service, asked: Wanted, form: str | None, toolbox: Toolbox | None) -> Wanted:
    """The same within a grammar, of a format or of calls."""
    if form is not None and toolbox is not None:
        raise ApiError("A JSON format together with tools is not supported.", param="response_format")
    if form is not None:
        return dataclasses.replace(asked, matcher=service.grammars.matcher_of(form, "response_format"))
    if toolbox is None:
        return asked
    controls = service.grammars.controls((toolbox.dialect.begin_mark, toolbox.dialect.end_mark))
    matcher = service.grammars.matcher_of(tool_grammar(toolbox, controls), "tools")
    silent = {id_: mark for mark, id_ in controls.items() if service.tokenizer.is_special(mark)}
    return dataclasses.replace(asked, matcher=matcher, marks=silent)


def _chances(fields: Fields) -> int | None:
    most = fields.whole("top_logprobs", 0, 20)
    if not fields.flag("logprobs"):
        if most:
            raise ApiError("top_logprobs without logprobs.", param="top_logprobs")
        return None
    return most or 0


class ChatAnswer:
    """Writes one answer."""

    def __init__(self, service: Service, request: ChatRequest) -> None:
        self._service, self._request = service, request
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": service.settings.model,
            "system_fingerprint": service.fingerprint,
        }  # fmt: skip
        self._filter = CallFilter(request.toolbox.dialect) if request.toolbox else None

    async def whole(self, events: AsyncIterator[Event]) -> dict[str, Any]:
        """The answer in one piece."""
        text, chances, end, calls = "", [], None, list[Call]()
        async for event in events:
            if isinstance(event, Delta):
                text += self._shown(event)
                chances += chances_json(self._service, event)
            elif isinstance(event, Finished):
                rest, calls = self._rest()
                text, end = text + rest, event
        assert end is not None
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
        if calls:
            message["tool_calls"] = calls_json(calls)
        logprobs = None if self._request.wanted.chances is None else {"content": chances, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": _reason(end, calls)}
        return {
            **self._head, "object": "chat.completion", "choices": [choice], "usage": usage_json(end.usage),
            "edgesink": end.status,
        }  # fmt: skip

    async def chunks(self, events: AsyncIterator[Event]) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        yield self._chunk({"role": "assistant", "content": ""})
        async for event in events:
            if isinstance(event, Begun):
                yield self._chunk({}, edgesink=event.status)  # clients may look at its ring meanwhile
            elif isinstance(event, Delta):
                text, chances = self._shown(event), chances_json(self._service, event)
                if text or chances:
                    yield self._chunk({"content": text}, chances=chances)
            elif isinstance(event, Finished):
                text, calls = self._rest()
                if text:
                    yield self._chunk({"content": text})
                for number, call in enumerate(calls_json(calls)):
                    yield self._chunk({"tool_calls": [{"index": number, **call}]})
                yield self._chunk({}, _reason(event, calls), edgesink=event.status)
                if self._request.include_usage:
                    yield self._sse(choices=[], usage=usage_json(event.usage), edgesink=event.status)
        yield "data: [DONE]\n\n"

    def _shown(self, event: Delta) -> str:
        return self._filter.push(event.text) if self._filter else event.text

    def _rest(self) -> tuple[str, list[Call]]:
        return self._filter.finish() if self._filter else ("", [])

    def _chunk(
        self, delta: Mapping[str, Any], reason: str | None = None, chances: Sequence[Any] = (), **more: Any
    ) -> str:
        logprobs = {"content": chances, "refusal": None} if chances else None
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._request.include_usage else {}
        return self._sse(choices=[choice], **usage, **more)

    def _sse(self, **fields: Any) -> str:
        return sse({**self._head, "object": "chat.completion.chunk", **fields})


def calls_json(calls: Sequence[Call]) -> list[dict[str, Any]]:
    """As chat completions have them, each with a new id."""
    return [
        {
            "id": f"call_{secrets.token_hex(12)}", "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in calls
    ]  # fmt: skip


def _reason(end: Finished, calls: Sequence[Call]) -> str:
    return "tool_calls" if calls and end.reason == "stop" else end.reason
