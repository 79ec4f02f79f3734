"""The process: a socket, the event loop, and an end that leaves nothing half done."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from edgesink.errors import BadPlace, reason
from edgesink.runtime.session import Stream
from edgesink.serve.app import make_app
from edgesink.serve.service import Service
from edgesink.serve.settings import Settings

ENDS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
MOST_CONNECTIONS = 256
IDLE_SECONDS = 30  # of a connection
HEAD_BYTES = 64 << 10  # of a request, without its body


def serve(stream: Stream, settings: Settings, say: Callable[[str], None]) -> None:
    """Serve until a signal ends it (SIGINT, SIGTERM, SIGHUP).

    Raises:
        BadPlace: the address cannot be listened on, or the folder of conversations not be made.
    """
    with listen(settings) as listener:
        service = Service(stream, settings)
        host, port = listener.getsockname()[:2]
        place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        say(f"{settings.model} on {place} (a page to talk; OpenAI's API at {place}/v1; Ctrl-C stops)")
        try:
            asyncio.run(EndingServer(service).serve([listener]))
        finally:
            service.close()


class EndingServer(uvicorn.Server):
    """Ends the answers that run before it closes their connections."""

    def __init__(self, service: Service) -> None:
        seconds = service.settings.limits.stop_seconds
        config = uvicorn.Config(
            make_app(service), log_level="warning", access_log=False, server_header=False, lifespan="off", ws="none",
            http="h11", h11_max_incomplete_event_size=HEAD_BYTES, timeout_keep_alive=IDLE_SECONDS,
            limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=max(1, round(seconds) + 5),
        )  # fmt: skip
        super().__init__(config)
        self._service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See `uvicorn.Server`, which would send itself the signal again: an end that was asked for is no failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in ENDS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        ending = asyncio.get_running_loop().run_in_executor(None, self._service.close)
        await super().shutdown(sockets)
        await ending


def listen(settings: Settings) -> socket.socket:
    """A socket at the address; BadPlace if there can be none."""
    host = settings.host.strip("[]")
    try:
        family = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, settings.port), family=family, backlog=128)
    except OSError as error:
        why = f"{settings.host}:{settings.port} cannot be listened on ({reason(error)})"
        raise BadPlace(why, "", "choose another --host or --port") from None
