"""The commands `chat` and `generate`: text in, text out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from edgesink.cli.options import (
    Json,
    KernelsOption,
    MappedOption,
    MaxNewTokens,
    MinP,
    Model,
    Penalty,
    ProviderOption,
    Seed,
    Sinks,
    Temperature,
    Threads,
    TopK,
    TopP,
)
from edgesink.cli.output import on_terminal, print_json, say
from edgesink.errors import BadOption
from edgesink.files import check_file_goal
from edgesink.models import DEFAULT_MODEL


def chat(
    model: Model = DEFAULT_MODEL,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Answer this one message and exit.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt that comes before the conversation.")] = None,
    pin_system: Annotated[
        bool, typer.Option(help="Keep the whole system prompt as attention sinks, so that it is never evicted.")
    ] = False,
    session: Annotated[
        Path | None,
        typer.Option(help="Session file: resume from it if it exists, and save the conversation to it at the end."),
    ] = None,
    sinks: Sinks = None,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 0.9,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = None,
    max_new_tokens: MaxNewTokens = None,
    threads: Threads = None,
    provider: ProviderOption = "cpu",
    kernels: KernelsOption = None,
    mapped: MappedOption = None,
) -> None:
    """Chat with a model in a conversation without a length limit.

    Ctrl-C stops an answer, Ctrl-D exits, /help lists the commands.
    """
    import edgesink
    from edgesink.bundles import find_bundle
    from edgesink.cli.repl import converse, kept, reply, resume
    from edgesink.runtime.chat import Chat
    from edgesink.runtime.sampling import SamplingSpec

    sampling = SamplingSpec(temperature, top_k, top_p, min_p, repetition_penalty, seed=seed)
    if session:
        check_file_goal(session)
    stream = edgesink.load(find_bundle(model, talk=on_terminal()), threads, provider, sinks, kernels, mapped)
    talk = Chat(stream, system, sampling, "system" if pin_system else "none")
    if session and os.path.lexists(session):
        resume(talk, session, "--pin-system" if pin_system else "--sinks" if sinks is not None else None)
    with kept(talk, session):
        if message is not None:
            say(f"({reply(talk, message, max_new_tokens)})")
        else:
            converse(talk, max_new_tokens)


def generate(
    model: Model = DEFAULT_MODEL,
    prompt: Annotated[str | None, typer.Argument(help="Text to continue. Default: read from stdin.")] = None,
    sinks: Sinks = None,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Stop before this text is printed. Repeat the option for more texts.")
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    threads: Threads = None,
    provider: ProviderOption = "cpu",
    kernels: KernelsOption = None,
    mapped: MappedOption = None,
    as_json: Json = False,
) -> None:
    """Continue a text."""
    import edgesink
    from edgesink.bundles import find_bundle
    from edgesink.cli.repl import read_prompt, show
    from edgesink.runtime.generate import generate as generate_tokens
    from edgesink.runtime.sampling import SamplingSpec

    sampling = SamplingSpec(temperature, top_k, top_p, min_p, repetition_penalty, seed=seed)
    stream = edgesink.load(find_bundle(model, talk=on_terminal()), threads, provider, sinks, kernels, mapped)
    ids = stream.tokenizer.encode(prompt if prompt is not None else read_prompt(), special=True)
    if not ids:
        raise BadOption("an empty prompt", "text to continue")
    tokens = generate_tokens(stream, ids, sampling, max_new_tokens, stop or ())
    if as_json:
        made = list(tokens)
        text = "".join(token.text for token in made)
        print_json({"prompt_ids": ids, "ids": [t.id for t in made], "text": text, "evicted": stream.evicted})
    else:
        say(f"({show(tokens)})")
