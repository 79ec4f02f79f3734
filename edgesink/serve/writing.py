"""Pieces of JSON that several endpoints write."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from edgesink.serve.answering import Delta, Event, Finished, Usage
from edgesink.serve.service import Service


async def gathered(events: AsyncIterator[Event], add: Callable[[Delta], None]) -> Finished:
    """The end of an answer; every token before it is told to `add` as it comes."""
    end = None
    async for event in events:
        if isinstance(event, Delta):
            add(event)
        elif isinstance(event, Finished):
            end = event
    assert end is not None
    return end


def usage_json(usage: Usage) -> dict[str, Any]:
    """As chat completions and completions have it."""
    return {
        "prompt_tokens": usage.prompt, "completion_tokens": usage.answer, "total_tokens": usage.prompt + usage.answer,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }  # fmt: skip


def chances_json(service: Service, event: Delta) -> list[dict[str, Any]]:
    """The chances of a token, in a list of none or one."""
    if event.chance is None:
        return []
    others = [token_json(service, *other) for other in event.chance.others]
    return [{**token_json(service, event.chance.id, event.chance.logprob), "top_logprobs": others}]


def token_json(service: Service, token_id: int, logprob: float) -> dict[str, Any]:
    """A token with its logarithmic probability."""
    data = service.grammars.bytes_of(token_id)
    return {"token": data.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(data)}


def sse(data: Any, event: str = "") -> str:
    """A server-sent event."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
