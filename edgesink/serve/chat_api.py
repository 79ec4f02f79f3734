"""`POST /v1/chat/completions`: what is asked, and its answer as OpenAI writes it."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgesink.serve.answering import Begun, Delta, Event, Finished, Recalled, Wanted
from edgesink.serve.api_error import ApiError
from edgesink.serve.fields import Fields
from edgesink.serve.formats import constrained, format_grammar
from edgesink.serve.messages import history_reader
from edgesink.serve.options import SAMPLING, include_usage, recall, wanted
from edgesink.serve.prompts import ChatPrompt
from edgesink.serve.service import Service
from edgesink.serve.tools import Call, CallFilter, Toolbox, read_tools
from edgesink.serve.writing import chances_json, gathered, sse, usage_json

LIMITS = ("max_completion_tokens", "max_tokens")
KNOWN = SAMPLING | {
    "model", "messages", "stream", "stream_options", "stop", "logprobs", "top_logprobs", "response_format", "tools",
    "tool_choice", "parallel_tool_calls", "edgesink", *LIMITS,
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
    parallel = fields.flag("parallel_tool_calls", default=True)
    toolbox = read_tools(fields.raw("tools"), fields.raw("tool_choice"), parallel, dialect)
    reader = history_reader(fields.raw("messages"), service.settings.limits.messages, dialect)
    history = reader.history(toolbox.system if toolbox else "", writer.takes_system)
    writer.check(history)
    asked = wanted(fields, service.sampling, service.settings.limits.answer_tokens, LIMITS)
    asked = dataclasses.replace(asked, chances=_chances(fields), recall=recall(fields, service.memories is not None))
    if asked.chances is not None:
        service.grammars.prepare()
    form = format_grammar(fields.raw("response_format"), "response_format", True)
    asked = constrained(service, asked, form, "response_format", toolbox)
    prompt = ChatPrompt(history, writer, dialect)
    return ChatRequest(prompt, asked, toolbox, fields.flag("stream"), include_usage(fields))


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
        self._filter = CallFilter(request.toolbox.dialect if request.toolbox else None)

    async def whole(self, events: AsyncIterator[Event]) -> dict[str, Any]:
        """The answer in one piece."""
        texts, chances = list[str](), list[dict[str, Any]]()

        def add(delta: Delta) -> None:
            texts.append(self._filter.push(delta.text))
            chances.extend(chances_json(self._service, delta))

        end = await gathered(events, add)
        rest, calls = self._filter.finish()
        text = "".join([*texts, rest])
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
            elif isinstance(event, Recalled):
                if event.brought.passages:
                    yield self._chunk({}, edgesink=event.status)
            elif isinstance(event, Delta):
                text, chances = self._filter.push(event.text), chances_json(self._service, event)
                if text or chances:
                    yield self._chunk({"content": text}, chances=chances)
            elif isinstance(event, Finished):
                text, calls = self._filter.finish()
                if text:
                    yield self._chunk({"content": text})
                for number, call in enumerate(calls_json(calls)):
                    yield self._chunk({"tool_calls": [{"index": number, **call}]})
                yield self._chunk({}, _reason(event, calls), edgesink=event.status)
                if self._request.include_usage:
                    yield self._sse(choices=[], usage=usage_json(event.usage), edgesink=event.status)
        yield "data: [DONE]\n\n"

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
