"""The answer of `/v1/responses`: an object with items, or the events in which it grows."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from edgesink.serve.answering import Delta, Event, Finished
from edgesink.serve.responses_api import ResponseRequest, Responses, Told
from edgesink.serve.service import Service
from edgesink.serve.tools import Call, CallFilter
from edgesink.serve.writing import gathered, sse


class ResponseAnswer:
    """Writes one answer, and remembers it by its id."""

    def __init__(self, service: Service, earlier: Responses, request: ResponseRequest) -> None:
        self._request, self._earlier = request, earlier
        self.id = f"resp_{secrets.token_hex(16)}"
        self._base = {
            "id": self.id, "object": "response", "created_at": int(time.time()), "model": service.settings.model,
            "error": None, "incomplete_details": None, "output": [], "usage": None, **request.echoed,
        }  # fmt: skip
        self._filter = CallFilter(request.toolbox.dialect if request.toolbox else None)
        self._message_id = f"msg_{secrets.token_hex(16)}"
        self._text = ""
        self._number = -1  # of the last event

    async def whole(self, events: AsyncIterator[Event]) -> dict[str, Any]:
        """The answer in one piece."""
        texts = list[str]()
        end = await gathered(events, lambda delta: texts.append(self._filter.push(delta.text)))
        rest, calls = self._filter.finish()
        self._text = "".join([*texts, rest])
        items = [self._message("completed")] if self._text or not calls else []
        return self._finished(end, [*items, *map(_call_json, calls)])

    async def chunks(self, events: AsyncIterator[Event]) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        for name in ("response.created", "response.in_progress"):
            yield self._event(name, response={**self._base, "status": "in_progress"})
        async for event in events:
            if isinstance(event, Delta):
                for line in self._more(self._filter.push(event.text)):
                    yield line
            elif isinstance(event, Finished):
                for line in self._ending(event):
                    yield line

    def _more(self, text: str) -> Iterator[str]:
        if not text:
            return
        if not self._text:
            yield from self._open_message()
        self._text += text
        place = {"item_id": self._message_id, "output_index": 0, "content_index": 0}
        yield self._event("response.output_text.delta", **place, delta=text, logprobs=[])

    def _open_message(self) -> Iterator[str]:
        item = {**self._message("in_progress"), "content": []}
        yield self._event("response.output_item.added", output_index=0, item=item)
        place = {"item_id": self._message_id, "output_index": 0, "content_index": 0}
        yield self._event("response.content_part.added", **place, part=_part(""))

    def _ending(self, end: Finished) -> Iterator[str]:
        text, calls = self._filter.finish()
        yield from self._more(text)
        items: list[dict[str, Any]] = []
        if self._text or not calls:
            if not self._text:
                yield from self._open_message()
            place = {"item_id": self._message_id, "output_index": 0, "content_index": 0}
            yield self._event("response.output_text.done", **place, text=self._text, logprobs=[])
            yield self._event("response.content_part.done", **place, part=_part(self._text))
            items.append(self._message("completed"))
            yield self._event("response.output_item.done", output_index=0, item=items[0])
        for call in map(_call_json, calls):
            place = {"item_id": call["id"], "output_index": len(items)}
            begun = {**call, "arguments": "", "status": "in_progress"}
            yield self._event("response.output_item.added", output_index=len(items), item=begun)
            yield self._event("response.function_call_arguments.delta", **place, delta=call["arguments"])
            yield self._event(
                "response.function_call_arguments.done", **place, name=call["name"], arguments=call["arguments"]
            )
            yield self._event("response.output_item.done", output_index=len(items), item=call)
            items.append(call)
        response = self._finished(end, items)
        yield self._event(f"response.{response['status']}", response=response)

    def _finished(self, end: Finished, items: list[dict[str, Any]]) -> dict[str, Any]:
        history = self._request.prompt.history
        self._earlier.add(self.id, Told(end.key, self._request.instructions, history.system))
        usage = end.usage
        is_cut = end.reason == "length"
        return {
            **self._base, "status": "incomplete" if is_cut else "completed", "output": items,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "usage": {
                "input_tokens": usage.prompt, "input_tokens_details": {"cached_tokens": usage.cached},
                "output_tokens": usage.answer, "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt + usage.answer,
            },
            "edgesink": end.status,
        }  # fmt: skip

    def _message(self, status: str) -> dict[str, Any]:
        return {
            "id": self._message_id, "type": "message", "role": "assistant", "status": status,
            "content": [_part(self._text)],
        }  # fmt: skip

    def _event(self, kind: str, /, **fields: Any) -> str:
        self._number += 1
        return sse({"type": kind, "sequence_number": self._number, **fields}, kind)


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call_json(call: Call) -> dict[str, Any]:
    return {
        "id": f"fc_{secrets.token_hex(16)}", "call_id": f"call_{secrets.token_hex(12)}", "type": "function_call",
        "name": call.name, "arguments": call.arguments, "status": "completed",
    }  # fmt: skip
