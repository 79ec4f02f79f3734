"""Who may ask: the address that a request came to, where its page is from, and the key.

A page of another site can make a browser send requests to this machine; it cannot hide its Origin, and not name this
machine without a Host that we know (DNS rebinding). So both are checked before anything else is.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgesink.serve.api_error import ApiError, internal
from edgesink.serve.settings import Settings

log = logging.getLogger("edgesink.serve")

CLOSED = ("/v1/", "/edgesink/", "/metrics")  # paths that take the key, where there is one

SECURITY_HEADERS: Mapping[str, str] = {
    "x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin", "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}  # fmt: skip


class Guard:
    """Lets requests through to `app`, or refuses them."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(Headers(scope=scope), scope["path"])
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, headers: Headers, path: str) -> None:
        host = headers.get("host", "")
        allowed = self._settings.allowed_hosts
        if allowed is not None and _name(host) not in allowed:
            raise ApiError("This server does not go by the name in the Host header.", 403, code="unknown_host")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise ApiError("Pages of other sites may not use this server.", 403, code="cross_origin")
        key = self._settings.api_key
        if key is not None and path.startswith(CLOSED) and not _is_key(headers.get("authorization", ""), key):
            raise ApiError("The API key is missing or wrong.", 401, code="invalid_api_key")


class Faults:
    """Turns what is a fault of ours into an answer that tells nothing; the log has the rest."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. Where an answer has begun, the fault goes on, and the connection is closed."""
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            if begun or scope["type"] != "http":
                raise
            log.exception("a request failed")
            await error_response(internal())(scope, receive, send)


def _name(host: str) -> str:
    """Without the port."""
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host).lower()


def _is_key(authorization: str, key: str) -> bool:
    scheme, _, given = authorization.partition(" ")
    same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), key.encode())
    return same and scheme.lower() == "bearer"


def error_response(error: ApiError) -> JSONResponse:
    """As OpenAI's clients understand it."""
    headers = (
        {"www-authenticate": "Bearer"} if error.status == 401 else {"retry-after": "1"} if error.status == 429 else {}
    )
    return JSONResponse(error.body, error.status, {**SECURITY_HEADERS, **headers})
