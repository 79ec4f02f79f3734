"""The commands `chat` and `generate`: text in, text out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgesink.cli.options import (
    DraftsOption,
    ExactOption,
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
from edgesink.models import DEFAULT_MODEL
from edgesink.sampling_defaults import CHAT_SAMPLING
from edgesink.spec import Evict

RecallWay = Literal["quoted", "pinned"]

if TYPE_CHECKING:
    from edgesink.runtime.chat import Pin


def chat(
    model: Model = DEFAULT_MODEL,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Answer this one message and exit.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt that comes before the conversation.")] = None,
    pin_system: Annotated[
        bool | None,
        typer.Option(
            "--pin-system/--no-pin-system",
            help="Keep the whole system prompt as attention sinks, so that it is never evicted. Default: if it fits, "
            "and --sinks is not given.",
        ),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(
            help="Name of a session, or the path of its file: resume it if there is one, and save it after every turn."
        ),
    ] = None,
    memory: Annotated[
        Path | None,
        typer.Option(
            help="Memory file: what was said beyond the window comes back. Default: with --session, the session's own."
        ),
    ] = None,
    no_memory: Annotated[
        bool,
        typer.Option("--no-memory", help="Keep no memory with a session: what is forgotten is gone."),
    ] = False,
    recall: Annotated[
        RecallWay,
        typer.Option(help="With a memory: quote what comes back in the message, or put it into pinned tokens."),
    ] = "quoted",
    sinks: Sinks = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: Penalty = None,
    seed: Seed = None,
    max_new_tokens: MaxNewTokens = None,
    threads: Threads = None,
    provider: ProviderOption = "cpu",
    kernels: KernelsOption = None,
    mapped: MappedOption = None,
    exact: ExactOption = False,
    drafts: DraftsOption = "auto",
    evict: Annotated[
        Evict | None,
        typer.Option(
            help="What is forgotten first: whole turns, or single tokens (plain). Default: turns where the bundle can."
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Print answers as plain text, and read messages without a line editor.")
    ] = False,
) -> None:
    """Chat with a model in a conversation without a length limit.

    Enter sends a message, Alt-Enter begins another line, Ctrl-C stops an answer, and /help lists the commands.
    """
    import edgesink
    from edgesink.bundles import find_bundle
    from edgesink.cli.chat.loop import answer_once, converse
    from edgesink.cli.keeping import kept
    from edgesink.cli.memory import check_memory, remembering
    from edgesink.runtime.chat import Chat
    from edgesink.runtime.sampling import SamplingSpec
    from edgesink.runtime.sessions import check_session

    chosen = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty)
    SamplingSpec.of_model(None, **chosen)  # wrong values are refused before a model is loaded
    if session is not None:
        check_session(session)
    wanted = check_memory(memory, no_memory, recall, session)
    stream = edgesink.load(find_bundle(model, talk=on_terminal()), threads, provider, sinks, kernels, mapped, exact)
    stream.drafts = drafts
    sampling = SamplingSpec.of_model(stream.manifest.sampling or CHAT_SAMPLING, **chosen, seed=seed)
    talk = Chat(stream, system, sampling, _pins(pin_system, sinks), evict=evict)
    if talk.unpinned and system is not None:
        say(f"(the system prompt will be forgotten like anything else: {talk.unpinned})")
    given = {name: value for name, value in (chosen | {"seed": seed, "sinks": sinks}).items() if value is not None}
    with kept(talk, session, given) as save, remembering(talk, wanted):
        if message is not None:
            answer_once(talk, message, max_new_tokens, plain)
        else:
            converse(talk, max_new_tokens, save, plain)


def _pins(pin_system: bool | None, sinks: int | None) -> Pin:
    """What a conversation pins, as the options say."""
    if pin_system is None:
        return "fit" if sinks is None else "none"
    return "system" if pin_system else "none"


def generate(
    model: Model = DEFAULT_MODEL,
    prompt: Annotated[str | None, typer.Argument(help="Text to continue. Default: read from stdin.")] = None,
    sinks: Sinks = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: Penalty = None,
    seed: Seed = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Stop before this text is printed. Repeat the option for more texts.")
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    threads: Threads = None,
    provider: ProviderOption = "cpu",
    kernels: KernelsOption = None,
    mapped: MappedOption = None,
    exact: ExactOption = False,
    drafts: DraftsOption = "auto",
    as_json: Json = False,
) -> None:
    """Continue a text."""
    import edgesink
    from edgesink.bundles import find_bundle
    from edgesink.cli.chat.answers import PlainView, speak
    from edgesink.cli.chat.prompts import read_all
    from edgesink.runtime.generate import generate as generate_tokens
    from edgesink.runtime.sampling import SamplingSpec

    chosen = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty)
    SamplingSpec.of_model(None, **chosen)  # wrong values are refused before a model is loaded
    stream = edgesink.load(find_bundle(model, talk=on_terminal()), threads, provider, sinks, kernels, mapped, exact)
    sampling = SamplingSpec.of_model(stream.manifest.sampling, **chosen, seed=seed)
    ids = stream.tokenizer.encode(prompt if prompt is not None else read_all(), special=True)
    if not ids:
        raise BadOption("an empty prompt", "text to continue")
    tokens = generate_tokens(stream, ids, sampling, max_new_tokens, stop or (), drafts)
    if as_json:
        made = list(tokens)
        text = "".join(token.text for token in made)
        print_json({"prompt_ids": ids, "ids": [t.id for t in made], "text": text, "evicted": stream.evicted})
    else:
        say(f"({speak(tokens, stream, PlainView()).words})")
