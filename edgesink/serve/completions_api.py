"""`POST /v1/completions`: a bare text goes on."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from edgesink.serve.answering import Delta, Event, Finished, Wanted
from edgesink.serve.api_error import ApiError
from edgesink.serve.fields import Fields
from edgesink.serve.options import SAMPLING, include_usage, wanted
from edgesink.serve.prompts import IdsPrompt, Prompt, TextPrompt
from edgesink.serve.service import Service
from edgesink.serve.writing import gathered, sse, token_json, usage_json

KNOWN = SAMPLING | {"model", "prompt", "stream", "stream_options", "stop", "logprobs", "max_tokens"}
DEFAULT_TOKENS = 16  # of OpenAI's


@dataclass(frozen=True)
class CompletionRequest:
    """What is asked."""

    prompt: Prompt
    wanted: Wanted
    stream: bool
    include_usage: bool


def read_request(service: Service, body: bytes) -> CompletionRequest:
    """ApiError says what is wrong with it."""
    fields = Fields(body, KNOWN)
    service.check_model(fields)
    most = service.settings.limits.answer_tokens
    asked = wanted(fields, service.sampling, most, ("max_tokens",), min(DEFAULT_TOKENS, most))
    asked = dataclasses.replace(asked, chances=fields.whole("logprobs", 0, 20))
    if asked.chances is not None:
        service.grammars.prepare()
    prompt = _prompt(service, fields.raw("prompt"))
    return CompletionRequest(prompt, asked, fields.flag("stream"), include_usage(fields))


def _prompt(service: Service, raw: Any) -> Prompt:
    if isinstance(raw, list) and len(raw) == 1 and isinstance(raw[0], str | list):
        raw = raw[0]
    if isinstance(raw, str) and raw:
        return TextPrompt(raw, service.tokenizer, service.manifest)
    if isinstance(raw, list) and raw and all(type(item) is int for item in raw):
        if wrong := [item for item in raw if not 0 <= item < service.manifest.vocab]:
            raise ApiError(f"prompt has the token {wrong[0]}, not 0 to {service.manifest.vocab - 1}.", param="prompt")
        return IdsPrompt(tuple(raw), service.manifest)
    raise ApiError("prompt is not one text or one list of tokens that is not empty.", param="prompt")


class CompletionAnswer:
    """Writes one answer."""

    def __init__(self, service: Service, request: CompletionRequest) -> None:
        self._service, self._request = service, request
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time()),
            "model": service.settings.model, "system_fingerprint": service.fingerprint,
        }  # fmt: skip
        self._length = 0  # characters said

    async def whole(self, events: AsyncIterator[Event]) -> dict[str, Any]:
        """The answer in one piece."""
        texts, logprobs = list[str](), self._no_logprobs()

        def add(delta: Delta) -> None:
            texts.append(delta.text)
            self._add(logprobs, delta)

        end = await gathered(events, add)
        choice = {"index": 0, "text": "".join(texts), "logprobs": logprobs, "finish_reason": end.reason}
        return {**self._head, "choices": [choice], "usage": usage_json(end.usage), "edgesink": end.status}

    async def chunks(self, events: AsyncIterator[Event]) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        usage = {"usage": None} if self._request.include_usage else {}
        async for event in events:
            if isinstance(event, Delta):
                logprobs = self._no_logprobs()
                self._add(logprobs, event)
                if event.text or event.chance:
                    choice = {"index": 0, "text": event.text, "logprobs": logprobs, "finish_reason": None}
                    yield sse({**self._head, "choices": [choice], **usage})
            elif isinstance(event, Finished):
                choice = {"index": 0, "text": "", "logprobs": None, "finish_reason": event.reason}
                yield sse({**self._head, "choices": [choice], **usage, "edgesink": event.status})
                if self._request.include_usage:
                    yield sse({**self._head, "choices": [], "usage": usage_json(event.usage)})
        yield "data: [DONE]\n\n"

    def _no_logprobs(self) -> dict[str, list[Any]] | None:
        if self._request.wanted.chances is None:
            return None
        return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}

    def _add(self, logprobs: dict[str, list[Any]] | None, event: Delta) -> None:
        """Chances in the old form, lists of equal length."""
        if logprobs is not None and event.chance is not None:
            said = token_json(self._service, event.chance.id, event.chance.logprob)
            others = [token_json(self._service, *other) for other in event.chance.others]
            logprobs["tokens"].append(said["token"])
            logprobs["token_logprobs"].append(said["logprob"])
            logprobs["top_logprobs"].append({other["token"]: other["logprob"] for other in others})
            logprobs["text_offset"].append(self._length)
        self._length += len(event.text)
