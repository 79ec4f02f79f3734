"""The process: a socket, the event loop, and an end that leaves nothing half done."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn

from edgesink.errors import BadPlace, reason
from edgesink.runtime.session import Stream
from edgesink.serve.app import make_app
from edgesink.serve.service import Service
from edgesink.serve.settings import Settings


def serve(stream: Stream, settings: Settings, say: Callable[[str], None]) -> None:
    """Serve until a signal ends it (SIGINT, SIGTERM).

    Raises:
        BadPlace: the address cannot be listened on.
    """
    listener = _listen(settings)
    host, port = listener.getsockname()[:2]
    service = Service(stream, settings)
    config = uvicorn.Config(
        make_app(service), log_level="warning", access_log=False, server_header=False, lifespan="off",
        timeout_graceful_shutdown=max(1, round(settings.limits.stop_seconds)), h11_max_incomplete_event_size=64 << 10,
        timeout_keep_alive=30,
    )  # fmt: skip
    say(f"{settings.model} on http://{f'[{host}]' if ':' in host else host}:{port} (OpenAI's API at /v1; Ctrl-C stops)")
    try:
        asyncio.run(_Server(config, service, settings.limits.stop_seconds).serve([listener]))
    except KeyboardInterrupt:
        pass
    finally:
        listener.close()
        service.close()


class _Server(uvicorn.Server):
    """Ends the answers that run before it closes their connections."""

    def __init__(self, config: uvicorn.Config, service: Service, seconds: float) -> None:
        super().__init__(config)
        self._service, self._seconds = service, seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        ending = asyncio.get_running_loop().run_in_executor(None, self._service.close)
        await super().shutdown(sockets)
        await ending


def _listen(settings: Settings) -> socket.socket:
    host = settings.host.strip("[]")
    try:
        family = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, settings.port), family=family, backlog=128)
    except OSError as error:
        raise BadPlace(
            f"{settings.host}:{settings.port} cannot be listened on ({reason(error)})", "", "choose another --port"
        ) from None
