"""Answers and errors as HTTP: in one piece or as server-sent events, cancelled when the client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from edgesink.serve.answering import Event, Wanted
from edgesink.serve.api_error import ApiError, internal
from edgesink.serve.prompts import Prompt
from edgesink.serve.service import Answer, Service
from edgesink.serve.settings import Limits
from edgesink.serve.writing import sse

log = logging.getLogger("edgesink.serve")

CLIENT_LEFT = 499


class Asked(Protocol):
    """What every endpoint asks."""

    @property
    def prompt(self) -> Prompt:
        """What an answer goes on from."""

    @property
    def wanted(self) -> Wanted:
        """How it is to be."""

    @property
    def stream(self) -> bool:
        """Token by token."""


class Writer(Protocol):
    """Writes an answer as an endpoint does."""

    async def whole(self, events: AsyncIterator[Event]) -> dict[str, Any]:
        """In one piece."""

    def chunks(self, events: AsyncIterator[Event]) -> AsyncIterator[str]:
        """As server-sent events."""


async def body_of(request: Request, limits: Limits) -> bytes:
    """The body of a request; ApiError if it is too large, or too slow to come."""
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            if int(request.headers.get("content-length", "0")) > limits.body_bytes:
                raise _too_large(limits)
            async for piece in request.stream():
                body += piece
                if len(body) > limits.body_bytes:
                    raise _too_large(limits)
    except TimeoutError:
        raise ApiError("The request took too long to arrive.", 408, code="request_timeout") from None
    return bytes(body)


def _too_large(limits: Limits) -> ApiError:
    return ApiError(f"The request is larger than {limits.body_bytes} bytes.", 413, code="body_too_large")


async def answered(request: Request, service: Service, asked: Asked, writer: Writer) -> Response:
    """The answer to a request; ApiError if it cannot be given, or not in time."""
    answer = service.answer(asked.prompt, asked.wanted)
    if asked.stream:
        return EventStream(writer.chunks(answer.events()), answer)
    work = asyncio.ensure_future(writer.whole(answer.events()))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(work.result()) if work.done() else Response(status_code=CLIENT_LEFT)
    finally:
        answer.cancel()
        work.cancel()
        gone.cancel()


class EventStream(StreamingResponse):
    """Server-sent events of an answer."""

    def __init__(self, chunks: AsyncIterator[str], answer: Answer) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(_with_errors(chunks), headers=headers, media_type="text/event-stream")
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `StreamingResponse`."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.cancel()


async def _with_errors(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
    """Behind the beginning of an answer an error is an event."""
    try:
        async for chunk in chunks:
            yield chunk
    except ApiError as error:
        yield sse(error.body)
    except Exception:
        log.exception("an answer could not be written")
        yield sse(internal().body)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
