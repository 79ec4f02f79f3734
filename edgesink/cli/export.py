"""The command `export`: a checkpoint to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesink.cli.output import megabytes, on_terminal, say
from edgesink.model_name import understand
from edgesink.spec import DEFAULT_SINKS, DEFAULT_WINDOW, StreamSpec
from edgesink.targets import KvWrite, Positions, Precision, Target


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
    from edgesink.export.bundle import write_bundle
    from edgesink.export.recipe import Recipe
    from edgesink.export.source import find_checkpoint

    goal = out or Path(f"{understand(model).short}-{target}-{precision}")
    recipe = Recipe.fitted(target, stream, precision, kv_write, vocabulary_bits, parts)
    talk = on_terminal()
    manifest = write_bundle(find_checkpoint(model, talk.say), goal, recipe, talk.on_progress)
    say(f"{megabytes(manifest.weight_bytes)} of weights, {megabytes(manifest.state_bytes)} of state, for ever")
    print(goal)
