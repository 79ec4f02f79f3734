"""`POST /v1/chat/completions`: from a request to an answer, and from its events to OpenAI's JSON."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgesink.serve.answering import Begun, Delta, Event, Finished, Usage, Wanted, reply
from edgesink.serve.fields import Fields
from edgesink.serve.history import History
from edgesink.serve.messages import history_of
from edgesink.serve.options import SAMPLING, wanted
from edgesink.serve.service import Answer, Service

LIMITS = ("max_completion_tokens", "max_tokens")
KNOWN = SAMPLING | {"model", "messages", "stream", "stream_options", "stop", *LIMITS}


@dataclass(frozen=True)
class ChatRequest:
    """What is asked."""

    history: History
    wanted: Wanted
    stream: bool
    include_usage: bool


def read_request(service: Service, body: bytes) -> ChatRequest:
    """ApiError says what is wrong with it."""
    fields = Fields(body, KNOWN)
    service.check_model(fields)
    writer, limits = service.require_writer(), service.settings.limits
    history = history_of(fields.raw("messages"), limits.messages)
    writer.check(history)
    options = fields.inner("stream_options", {"include_usage", "include_obfuscation"})
    return ChatRequest(
        history,
        wanted(fields, service.sampling, limits.answer_tokens, LIMITS),
        fields.flag("stream"),
        options.get("include_usage") is True,
    )


def answer_to(service: Service, request: ChatRequest) -> Answer:
    """The answer, which waits for its turn."""
    writer = service.require_writer()
    return service.answer(
        request.history.keys(),
        lambda conversation, read, emit: reply(conversation, request.history, read, writer, request.wanted, emit),
    )


class ChatWriter:
    """Writes one answer as OpenAI does."""

    def __init__(self, service: Service, request: ChatRequest) -> None:
        self._request = request
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": service.settings.model,
        }

    async def whole(self, events: AsyncIterator[Event]) -> dict[str, Any]:
        """The answer in one piece."""
        text, end = "", None
        async for event in events:
            if isinstance(event, Delta):
                text += event.text
            elif isinstance(event, Finished):
                end = event
        assert end is not None
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end.reason}
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
            elif isinstance(event, Delta) and event.text:
                yield self._chunk({"content": event.text})
            elif isinstance(event, Finished):
                usage = usage_json(event.usage)
                yield self._chunk({}, event.reason, edgesink=event.status)
                if self._request.include_usage:
                    yield sse({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage,
                               "edgesink": event.status})  # fmt: skip
        yield "data: [DONE]\n\n"

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if self._request.include_usage else {}
        return sse({**self._head, "object": "chat.completion.chunk", "choices": [choice], **usage, **more})


def usage_json(usage: Usage) -> dict[str, Any]:
    """As chat completions and completions have it."""
    return {
        "prompt_tokens": usage.prompt, "completion_tokens": usage.answer, "total_tokens": usage.prompt + usage.answer,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }  # fmt: skip


def sse(data: Any) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
