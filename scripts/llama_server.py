"""llama.cpp's server while a measurement needs it."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import httpx


@contextmanager
def running(command: Sequence[str], log: IO[str] | int = subprocess.DEVNULL) -> Iterator[httpx.Client]:
    """A client of the server that a command starts, once it is ready; the server ends with it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
        try:
            while process.poll() is None and not _is_ready(client):
                time.sleep(0.1)
            yield client
        finally:
            process.kill()
            process.wait()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False
