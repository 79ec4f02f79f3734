"""The command line: options in, dataclasses out, one short body a command.

stdout is the result; progress and talk go to stderr. An `EdgesinkError` is one line and exit code 1, wrong usage is 2.
Heavy packages are imported by the commands that need them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgesink import cli_attention, cli_bench, cli_recall, cli_timing, cli_verify
from edgesink.cli_evidence import Json, Model, Threads, eval_app, say
from edgesink.errors import BadOption, EdgesinkError
from edgesink.models import DEFAULT_MODEL, MODELS
from edgesink.spec import (
    DEFAULT_SINKS,
    DEFAULT_WINDOW,
    KvWrite,
    Positions,
    Precision,
    Provider,
    StreamSpec,
    Target,
)
from edgesink.version import __version__

app = typer.Typer(
    help="Language models that talk for ever on the device in your hand, in constant memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


ProviderOption = Annotated[Provider, typer.Option(help="Where ONNX Runtime runs; plain: without kernels of our own.")]
Sinks = Annotated[int | None, typer.Option(help="Pinned first tokens of this stream; default the bundle's.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
TopK = Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens that hold this share; 1 keeps all.")]
MinP = Annotated[float, typer.Option(help="Keep tokens at least this likely beside the likeliest; 0 keeps all.")]
Penalty = Annotated[float, typer.Option(help="Make tokens seen lately less likely; 1 does not.")]
Seed = Annotated[int | None, typer.Option(help="Of the draws; default a fresh one.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Most tokens of an answer; default no limit.")]


def main() -> None:
    """Run the command line; the entry point of the `edgesink` script."""
    try:
        app()
    except EdgesinkError as error:
        print(f"edgesink: {error}", file=sys.stderr)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="An alias, a hub id, a checkpoint folder or a .gguf file.")],
    target: Annotated[Target, typer.Option(help="What runs it.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="Bundle folder; default NAME-TARGET-PRECISION here.")] = None,
    precision: Annotated[Precision, typer.Option(help="Of the weights.")] = "int4",
    window: Annotated[int, typer.Option(help="Most recent tokens that are seen.")] = DEFAULT_WINDOW,
    sinks: Annotated[int, typer.Option(help="Pinned first tokens, by default.")] = DEFAULT_SINKS,
    max_sinks: Annotated[
        int | None, typer.Option(help="Most sinks a stream may choose; default 128 if they fit.")
    ] = None,
    chunk: Annotated[
        int | None, typer.Option(help="Most tokens fed at once; default 64, on Apple's targets 32, if they fit.")
    ] = None,
    positions: Annotated[Positions, typer.Option(help="Where sinks seem to stand.")] = "cache",
    kv_write: Annotated[
        KvWrite | None, typer.Option(help="Core ML: how keys and values reach the state; default slice.")
    ] = None,
    vocabulary_bits: Annotated[
        int | None, typer.Option(min=4, max=8, help="4 or 8, of the embedding and the head in int4 and pal4.")
    ] = None,
    parts: Annotated[int, typer.Option(help="Core ML: packages that the layers are cut into.")] = 1,
) -> None:
    """Write a bundle: a graph with the sink + window ring inside, its tokenizer and its manifest."""
    stream = StreamSpec.fitted(sinks, window, max_sinks, chunk, positions, target)
    from edgesink.export.bundle import export as write_bundle
    from edgesink.export.source import find_checkpoint

    name = model if model in MODELS else Path(model).stem if Path(model).exists() else model.rpartition("/")[2]
    goal = out or Path(f"{name}-{target}-{precision}")
    manifest = write_bundle(
        find_checkpoint(model),
        goal,
        target,
        stream,
        precision,
        progress=True,
        kv_write=kv_write,
        vocabulary_bits=vocabulary_bits,
        parts=parts,
    )
    say(f"{_megabytes(manifest.weight_bytes)} of weights, {_megabytes(manifest.state_bytes)} of state, for ever")
    print(goal)


@app.command()
def chat(
    model: Model = DEFAULT_MODEL,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Answer this and leave.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    pin_system: Annotated[bool, typer.Option(help="Keep the whole system prompt for ever, as sinks.")] = False,
    session: Annotated[
        Path | None, typer.Option(help="Go on from this file if it exists; save to it at the end.")
    ] = None,
    sinks: Sinks = None,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 0.9,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.1,
    seed: Seed = None,
    max_new_tokens: MaxNewTokens = None,
    threads: Threads = None,
    provider: ProviderOption = "cpu",
) -> None:
    """Talk with a model, for as long as you like. Ctrl-C stops an answer, Ctrl-D leaves."""
    import edgesink
    from edgesink.bundles import find_bundle
    from edgesink.repl import converse, show
    from edgesink.runtime.chat import Chat
    from edgesink.runtime.sampling import SamplingSpec

    sampling = SamplingSpec(temperature, top_k, top_p, min_p, repetition_penalty, seed=seed)
    stream = edgesink.load(find_bundle(model), threads=threads, provider=provider, sinks=sinks)
    talk = Chat(stream, system, sampling, pin_system)
    if session and session.exists():
        talk.restore(session)
    if message is not None:
        say(f"({show(talk.answer(message, max_new_tokens))})")
    else:
        converse(talk, max_new_tokens)
    if session:
        talk.save(session)


@app.command()
def generate(
    model: Model = DEFAULT_MODEL,
    prompt: Annotated[str | None, typer.Argument(help="Text to go on from; default stdin.")] = None,
    sinks: Sinks = None,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given again.")] = None,
    max_new_tokens: MaxNewTokens = None,
    threads: Threads = None,
    provider: ProviderOption = "cpu",
    as_json: Json = False,
) -> None:
    """Go on from a text."""
    import edgesink
    from edgesink.bundles import find_bundle
    from edgesink.repl import show
    from edgesink.runtime.generate import generate as generate_tokens
    from edgesink.runtime.sampling import SamplingSpec

    sampling = SamplingSpec(temperature, top_k, top_p, min_p, repetition_penalty, seed=seed)
    stream = edgesink.load(find_bundle(model), threads=threads, provider=provider, sinks=sinks)
    ids = stream.tokenizer.encode(prompt if prompt is not None else sys.stdin.read(), special=True)
    if not ids:
        raise BadOption("an empty prompt", "text to go on from")
    tokens = generate_tokens(stream, ids, sampling, max_new_tokens, stop or ())
    if as_json:
        made = list(tokens)
        text = "".join(token.text for token in made)
        _print_json({"prompt_ids": ids, "ids": [t.id for t in made], "text": text, "evicted": stream.evicted})
    else:
        say(f"({show(tokens)})")


@app.command()
def inspect(bundle: Annotated[Path, typer.Argument(help="A bundle folder.")], as_json: Json = False) -> None:
    """Say what a bundle is, what it weighs and how much it will remember."""
    from edgesink.manifest import Manifest

    manifest = Manifest.read(bundle)
    manifest.check_files(bundle)
    if as_json:
        derived = {"state_bytes": manifest.state_bytes, "weight_bytes": manifest.weight_bytes}
        _print_json({**json.loads(manifest.to_json()), **derived})
        return
    model, stream = manifest.model, manifest.stream
    print(f"{model.name}, {model.architecture}, {model.layers} layers, for {manifest.target}")
    if manifest.parts > 1:
        print(f"cut into  {manifest.parts} packages, run one behind the other")
    print(f"weights   {_megabytes(manifest.weight_bytes)}: {manifest.weights}")
    print(f"state     {_megabytes(manifest.state_bytes)}, from the first token to the last")
    if manifest.has_kernels:
        from edgesink.runtime.kernels import names

        here = names()[0] if names() else "none on this machine"
        print(f"kernels   {here}; with them {_megabytes(manifest.state_bytes // 2)} of state")
    print(f"remembers {stream.capacity} tokens: {stream.sinks} first ones and the last {stream.window}")
    print(f"sinks     0 to {stream.max_sinks}, chosen when a stream starts; positions as in the {stream.positions}")
    print(f"feeds     up to {stream.chunk} tokens at once")
    parity = manifest.parity
    print(
        f"parity    max |Δlogit| {parity.max_abs_diff:.1e} over {parity.tokens} tokens, {parity.runner}, {parity.date}"
        if parity
        else "parity    not verified; run `edgesink verify`"
    )


@app.command()
def models(as_json: Json = False) -> None:
    """List the models that have a short name."""
    if as_json:
        _print_json({name: {"hub_id": alias.hub_id, "parameters": alias.parameters} for name, alias in MODELS.items()})
        return
    for name, alias in MODELS.items():
        default = "  (default)" if name == DEFAULT_MODEL else ""
        print(f"{name:<16}{alias.parameters:>6}  {alias.hub_id}{default}")


cli_timing.add(eval_app)
cli_recall.add(eval_app)
app.add_typer(eval_app, name="eval")
app.command()(cli_verify.verify)
app.command()(cli_bench.bench)
app.command()(cli_attention.attn)


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
