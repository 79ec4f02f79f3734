"""A server of edgesink on a free port, in this process for as long as a test needs it, or as a process of its own."""

import contextlib
import dataclasses
import functools
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import openai

from edgesink.runtime.session import Stream
from edgesink.serve.server import EndingServer, listen
from edgesink.serve.service import Service
from edgesink.serve.settings import Limits, Settings

MODEL = "the-model"
COMMAND = [sys.executable, "-P", "-c", "from edgesink.cli import main; main()", "serve"]
START_SECONDS = 120  # of a process, on a busy machine


@dataclasses.dataclass(eq=False)
class Served:
    """A running server, and clients of it."""

    service: Service
    port: int
    key: str | None
    open: list = dataclasses.field(default_factory=list)  # clients, to be closed

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @functools.cached_property
    def http(self) -> httpx.Client:
        self.open.append(httpx.Client(base_url=self.url, timeout=120))
        return self.open[-1]

    @functools.cache  # noqa: B019  (as long as the server)
    def client(self, key: str | None = None) -> openai.OpenAI:
        key = key or self.key or "none"
        self.open.append(openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120))
        return self.open[-1]

    def ask(self, messages, **options):
        """A chat completion, greedy where nothing else is asked for."""
        options = {"temperature": 0, "max_tokens": 12} | options
        return self.client().chat.completions.create(model=MODEL, messages=messages, **options)


@contextlib.contextmanager
def served(stream: Stream, key: str | None = None, folder: Path | None = None, memory: bool = False, **limits):
    """A server for the stream; it ends when the body does."""
    limit = Limits(**{"stop_seconds": 2, **limits})
    settings = Settings(MODEL, port=0, api_key=key, folder=folder, memory=memory, limits=limit)
    with listen(settings) as listener:
        service = Service(stream, settings)
        server = EndingServer(service)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        running = Served(service, listener.getsockname()[1], key)
        try:
            yield running
        finally:
            for client in running.open:
                client.close()
            server.should_exit = True
            thread.join(30)
            service.close()
        assert not thread.is_alive()


def start_process(bundle: Path, *options: str, **environment: str) -> tuple[subprocess.Popen, str]:
    """`edgesink serve` of a bundle on a free port, without a key: the process and its address."""
    process = subprocess.Popen(
        [*COMMAND, str(bundle), "--port", "0", *options],
        env=os.environ | {"EDGESINK_API_KEY": ""} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    late = threading.Timer(START_SECONDS, process.kill)
    late.start()
    said = []
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"http://[0-9.]+:\d+", line):
            late.cancel()
            return process, found[0]
    raise AssertionError("".join(said))


def user(text: str) -> dict:
    """A message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    """An answer."""
    return {"role": "assistant", "content": text}


def cached(completion) -> int:
    """Tokens of the prompt that had been read before."""
    return completion.usage.prompt_tokens_details.cached_tokens
