"""The web application: which path is whose, and errors as HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from edgesink.errors import BadOption
from edgesink.serve import chat_api, completions_api, responses_api
from edgesink.serve.api_error import ApiError, refused
from edgesink.serve.chat_api import ChatAnswer
from edgesink.serve.completions_api import CompletionAnswer
from edgesink.serve.guard import SECURITY_HEADERS, Faults, Guard, error_response
from edgesink.serve.http_answers import answered, body_of
from edgesink.serve.metrics import Counted
from edgesink.serve.response_answer import ResponseAnswer
from edgesink.serve.responses_api import Responses
from edgesink.serve.service import Service

PAGE = Path(__file__).with_name("page")


def make_app(service: Service) -> Starlette:
    """The application for one model."""
    earlier, limits = Responses(), service.settings.limits

    # a large request or grammar takes its time to be read, which is not the event loop's

    async def chat(request: Request) -> Response:
        asked = await asyncio.to_thread(chat_api.read_request, service, await body_of(request, limits))
        return await answered(request, service, asked, ChatAnswer(service, asked))

    async def complete(request: Request) -> Response:
        asked = await asyncio.to_thread(completions_api.read_request, service, await body_of(request, limits))
        return await answered(request, service, asked, CompletionAnswer(service, asked))

    async def respond(request: Request) -> Response:
        asked = await asyncio.to_thread(responses_api.read_request, service, earlier, await body_of(request, limits))
        return await answered(request, service, asked, ResponseAnswer(service, earlier, asked))

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model_json(service)]})

    async def model(request: Request) -> Response:
        service.check_name(request.path_params["name"])
        return JSONResponse(model_json(service))

    async def health(request: Request) -> Response:
        return JSONResponse(health_json(service))

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.text(), media_type=service.metrics.content_type)

    async def info(request: Request) -> Response:
        return JSONResponse(info_json(service))

    async def ring(request: Request) -> Response:
        found = service.conversations.find(request.path_params["conversation"])
        if found is None:
            raise ApiError("There is no such conversation in memory.", 404, code="conversation_not_found")
        return JSONResponse(found.status())

    page = Page(directory=PAGE)

    async def page_file(request: Request) -> Response:
        return await page.get_response(request.path_params.get("name", "index.html"), request.scope)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", complete, methods=["POST"]),
            Route("/v1/responses", respond, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/health", health),
            Route("/metrics", metrics),
            Route("/edgesink/info", info),
            Route("/edgesink/ring/{conversation}", ring),
            Route("/", page_file),  # not a Mount: it would answer for all paths whose method is another
            Route("/{name}", page_file),
        ],
        middleware=[
            Middleware(Counted, metrics=service.metrics), Middleware(Faults),
            Middleware(Guard, settings=service.settings),
        ],
        exception_handlers={ApiError: _api_error, BadOption: _bad_option, HTTPException: _http_error},
    )  # fmt: skip


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


def health_json(service: Service) -> dict[str, Any]:
    """Without a key: no text, no name and no place."""
    memories = service.memories
    return {"status": "ok"} if memories is None else {"status": "ok", "memory": {"failed": memories.failed}}


def info_json(service: Service) -> dict[str, Any]:
    """What the page tells of the model."""
    stream = service.manifest.stream
    return {
        "model": service.settings.model, "name": service.manifest.name, "capacity": stream.capacity,
        "sinks": stream.sinks, "max_sinks": stream.max_sinks, "state_bytes": service.state_bytes,
        "runner": service.runner, "chat": service.writer is not None, "conversations": service.settings.limits.streams,
        "memory": service.memories is not None,
    }  # fmt: skip


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _bad_option(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadOption)
    return error_response(refused(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    return error_response(ApiError(f"{error.detail}.", error.status_code, code=code))
