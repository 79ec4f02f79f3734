"""What a server is told when it starts: where it listens, who may ask, and how much of everything there may be."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from edgesink.errors import BadOption

OPTIONS = {
    "streams": "--streams", "saved_bytes": "--disk", "answer_tokens": "--max-tokens", "request_seconds": "--timeout",
}  # fmt: skip
"""Limits that the command line sets."""

SHORTEST = 1e-3  # of a limit in seconds, so that numbers are 1 or more

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Limits:
    """How much there may be of what a client could ask without end."""

    streams: int = 8  # conversations in memory, each with a state of its own
    saved_bytes: int = 2_000_000_000  # of conversations on disk
    memory_bytes: int = 32 << 20  # of what one conversation remembers beyond its window, where it does
    waiting: int = 64  # requests that wait for their turn; one more is refused
    answer_tokens: int = 4096  # of one answer
    request_seconds: float = 600.0  # from the arrival of a request to the end of its answer
    body_bytes: int = 8 << 20  # of a request
    body_seconds: float = 60.0  # for it to arrive
    messages: int = 100_000  # of a request
    stop_seconds: float = 10.0  # to finish what runs, after which it is cancelled

    def __post_init__(self) -> None:
        for name, value in self.__dict__.items():
            may_be_none = name in ("saved_bytes", "waiting")
            if not value >= (0 if may_be_none else SHORTEST):
                told = value / 1_000_000 if name == "saved_bytes" else value  # --disk is in megabytes
                found = f"{OPTIONS.get(name, name.replace('_', ' '))} = {told:g}"
                least = 0 if may_be_none else SHORTEST if name.endswith("seconds") else 1
                raise BadOption(found, f"{least} or more")


@dataclass(frozen=True)
class Settings:
    """Of one server."""

    model: str  # the name under which clients ask for it
    host: str = "127.0.0.1"
    port: int = 8080  # 0 takes a free one
    api_key: str | None = None  # None: whoever reaches the port may ask
    folder: Path | None = None  # of conversations that left memory; None drops them
    hosts: tuple[str, ...] = ()  # names by which clients may call this server, besides those of this machine itself
    memory: bool = False  # conversations remember beyond their windows, in files beside those of `folder`
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.memory and self.folder is None:
            raise BadOption("--memory with --disk 0", "a place on disk", "leave out --disk, or --memory")
        if self.api_key is not None and (len(self.api_key) < 8 or not self.api_key.isascii()):
            raise BadOption("an API key that is short or not ASCII", "8 characters or more")
        if not 0 <= self.port <= 65535:
            raise BadOption(f"port {self.port}", "0 to 65535")
        if not self.is_loopback and self.api_key is None:
            raise BadOption(
                f"listening on {self.host} without an API key",
                "one, as other machines could reach the server",
                "set --api-key or EDGESINK_API_KEY, or listen on 127.0.0.1",
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def allowed_hosts(self) -> frozenset[str] | None:
        """Names that the Host header may have; None for all, which are as good where a key is asked for."""
        if not self.is_loopback and not self.hosts:
            return None
        return frozenset(name.lower() for name in (*LOCAL_NAMES, self.host, *self.hosts))
