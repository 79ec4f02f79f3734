"""The command `serve`: an OpenAI-compatible server for one model."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated

import typer

from edgesink.cli.options import ExactOption, KernelsOption, MappedOption, Model, ProviderOption, Threads
from edgesink.cli.output import on_terminal, say
from edgesink.models import DEFAULT_MODEL
from edgesink.packages import require
from edgesink.paths import cache_folder

PACKAGES = ("starlette", "uvicorn", "llguidance", "prometheus_client")


def serve(
    model: Model = DEFAULT_MODEL,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but a loopback address needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on. 0 takes a free one.")] = 8080,
    api_key: Annotated[
        str | None, typer.Option(help="Key that clients must send. Default: the environment variable EDGESINK_API_KEY.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model for clients. Default: the last part of MODEL.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Host name that clients may call this server by. Repeat the option. Default: local names."),
    ] = None,
    streams: Annotated[int, typer.Option(help="Number of conversations kept in memory, each with its own state.")] = 8,
    disk: Annotated[
        int, typer.Option(help="Megabytes on disk, per model, for conversations that left memory. 0 keeps none there.")
    ] = 2000,
    max_tokens: Annotated[int, typer.Option(help="Maximum number of tokens of one answer.")] = 4096,
    timeout: Annotated[float, typer.Option(help="Seconds after which a request is ended with what it has.")] = 600.0,
    memory: Annotated[
        bool,
        typer.Option("--memory", help="Let conversations remember what left their windows, and bring it back unasked."),
    ] = False,
    threads: Threads = None,
    provider: ProviderOption = "cpu",
    kernels: KernelsOption = None,
    mapped: MappedOption = None,
    exact: ExactOption = False,
) -> None:
    """Serve a model with an OpenAI-compatible API and a web page.

    Conversations have no length limit: a client that sends its whole history again costs only what is new in it.
    """
    require(PACKAGES, "serve", "edgesink serve")
    import edgesink
    from edgesink.bundles import find_bundle
    from edgesink.model_name import understand
    from edgesink.serve.server import serve as run
    from edgesink.serve.settings import Limits, Settings

    key = api_key if api_key is not None else os.environ.get("EDGESINK_API_KEY") or None
    limits = Limits(streams=streams, saved_bytes=disk * 1_000_000, answer_tokens=max_tokens, request_seconds=timeout)
    kept = cache_folder("conversations") if disk else None
    settings = Settings("", host, port, key, kept, tuple(allow_host or ()), memory, limits)
    stream = edgesink.load(find_bundle(model, talk=on_terminal()), threads, provider, None, kernels, mapped, exact)
    folder = kept / stream.manifest.fingerprint[:16] if kept else None
    if memory:
        from edgesink.cli.memory import say_if_only_words

        say_if_only_words(stream, model)
    run(stream, dataclasses.replace(settings, model=name or understand(model).short, folder=folder), say)
