"""The web application: which path is whose, and answers and errors as HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from edgesink.errors import EdgesinkError
from edgesink.serve import chat_api
from edgesink.serve.api_error import INTERNAL, ApiError, refused
from edgesink.serve.chat_api import sse
from edgesink.serve.guard import SECURITY_HEADERS, Guard, error_response
from edgesink.serve.service import Answer, Service

log = logging.getLogger("edgesink.serve")
PAGE = Path(__file__).with_name("page")


def make_app(service: Service) -> Starlette:
    """The application for one model."""

    async def chat(request: Request) -> Response:
        asked = chat_api.read_request(service, await request.body())
        writer = chat_api.ChatWriter(service, asked)
        answer = chat_api.answer_to(service, asked)
        if asked.stream:
            return EventStream(writer.chunks(answer.events()), answer)
        return await whole(request, writer.whole(answer.events()), answer)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model_json(service)]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] != service.settings.model:
            raise ApiError("There is no such model here.", 404, "model", "model_not_found")
        return JSONResponse(model_json(service))

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def info(request: Request) -> Response:
        stream = service.manifest.stream
        return JSONResponse({
            "model": service.settings.model, "name": service.manifest.name, "capacity": stream.capacity,
            "sinks": stream.sinks, "max_sinks": stream.max_sinks, "state_bytes": service.state_bytes,
            "runner": service.runner, "chat": service.writer is not None,
        })  # fmt: skip

    async def ring(request: Request) -> Response:
        found = service.conversations.find(request.path_params["conversation"])
        if found is None:
            raise ApiError("There is no such conversation.", 404, code="conversation_not_found")
        return JSONResponse(found.status())

    routes: list[Any] = [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/health", health),
        Route("/edgesink/info", info),
        Route("/edgesink/ring/{conversation}", ring),
    ]
    if PAGE.is_dir():
        routes.append(Mount("/", Page(directory=PAGE, html=True)))
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, settings=service.settings)],
        exception_handlers={
            ApiError: _api_error,
            EdgesinkError: _edgesink_error,
            HTTPException: _http_error,
            Exception: _fault,
        },
        max_body_size=service.settings.limits.body_bytes,
    )


class Page(StaticFiles):
    """The web page's files."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        """With the headers that keep anything else out of the page."""
        response = super().file_response(*arguments, **options)
        response.headers.update({**SECURITY_HEADERS, "cache-control": "no-cache"})
        return response


def model_json(service: Service) -> dict[str, Any]:
    """As `/v1/models` has it."""
    return {"id": service.settings.model, "object": "model", "created": service.started, "owned_by": "edgesink"}


class EventStream(StreamingResponse):
    """Server-sent events of an answer, which is cancelled when the client leaves."""

    def __init__(self, chunks: AsyncIterator[str], answer: Answer) -> None:
        super().__init__(_with_errors(chunks), headers={"cache-control": "no-store"}, media_type="text/event-stream")
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
        yield sse(INTERNAL.body)


async def whole(request: Request, body: Awaitable[dict[str, Any]], answer: Answer) -> Response:
    """An answer in one piece, cancelled if the client leaves before it is there."""
    work, gone = asyncio.ensure_future(body), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(work.result()) if work.done() else Response(status_code=499)
    finally:
        answer.cancel()
        for task in (work, gone):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _edgesink_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EdgesinkError)
    return error_response(refused(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}.get(error.status_code)
    return error_response(ApiError(f"{error.detail}.", error.status_code, code=code))


async def _fault(request: Request, error: Exception) -> Response:
    return error_response(INTERNAL)
