"""What a server counts, for Prometheus. Owns the names; no text of anyone is among the labels."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgesink.serve.remembering import Brought

PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", "/health", "/metrics"})
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Of one server."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "edgesink_requests", "Requests by path and status.", ["path", "status"], registry=self._registry
        )
        self._tokens = Counter(
            "edgesink_tokens", "Tokens by what was done with them.", ["kind"], registry=self._registry
        )
        self._first = Histogram(
            "edgesink_first_token_seconds",
            "From a request to its first token.",
            registry=self._registry,
            buckets=SECONDS,
        )
        self._answer = Histogram(
            "edgesink_answer_seconds",
            "From a request to the end of its answer.",
            registry=self._registry,
            buckets=SECONDS,
        )
        self._search = Histogram(
            "edgesink_search_seconds",
            "Looking for what belongs to a message and left the window.",
            registry=self._registry,
            buckets=SECONDS,
        )
        self._recalls = Counter("edgesink_recalls", "Messages for which something came back.", registry=self._registry)
        self._ends = Counter("edgesink_answers", "Answers by how they ended.", ["end"], registry=self._registry)

    def watch(self, name: str, text: str, value: Callable[[], int]) -> None:
        """A number that is asked for when it is wanted."""
        Gauge(f"edgesink_{name}", text, registry=self._registry).set_function(lambda: float(value()))

    def first_token(self, seconds: float) -> None:
        """A client waited for it so long."""
        self._first.observe(seconds)

    def searched(self, brought: Brought) -> None:
        """It was looked whether something belongs to a message."""
        self._search.observe(brought.seconds)
        self._recalls.inc(1 if brought.passages else 0)

    def answered(self, end: str, read: int, cached: int, said: int, seconds: float) -> None:
        """An answer ended: of its prompt so many tokens were read, and so many had been before."""
        self._ends.labels(end).inc()
        for kind, count in (("read", read), ("cached", cached), ("generated", said)):
            self._tokens.labels(kind).inc(count)
        self._answer.observe(seconds)

    def failed(self, end: str) -> None:
        """An answer was not given, or broke off."""
        self._ends.labels(end).inc()

    def text(self) -> bytes:
        """All of it in Prometheus' form."""
        return generate_latest(self._registry)


class Counted:
    """Counts the requests of an application by what became of them."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in PATHS else "other"
                self._metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counting)
