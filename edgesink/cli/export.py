"""The command `export`: a checkpoint to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesink.cli.options import CheckpointName
from edgesink.cli.output import megabytes, on_terminal, say
from edgesink.model_name import understand
from edgesink.spec import DEFAULT_SINKS, DEFAULT_WINDOW, StreamSpec
from edgesink.targets import KvWrite, Positions, Precision, Target

CALIBRATION_TOKENS = 2048


def export(
    model: CheckpointName,
    target: Annotated[
        Target, typer.Option(help="Format to export to: ONNX, Core ML (.mlpackage) or Core AI (.aimodel).")
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(help="Bundle folder to write. Default: NAME-TARGET-PRECISION in the current folder."),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Weight precision. pal4 (4-bit palettes) is for coreml only.")
    ] = "int4",
    window: Annotated[
        int, typer.Option(help="Sliding window: number of most recent tokens that a token attends to.")
    ] = DEFAULT_WINDOW,
    sinks: Annotated[
        int, typer.Option(help="Default number of attention sinks: first tokens that are never evicted.")
    ] = DEFAULT_SINKS,
    max_sinks: Annotated[
        int | None,
        typer.Option(help="Largest number of sinks that a stream may choose. Default: 128, or as many as fit."),
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of tokens per run of the graph, used in prefill. "
            "Default: 64 for onnx, 32 for coreml and coreai, at most half the window."
        ),
    ] = None,
    positions: Annotated[
        Positions,
        typer.Option(
            help="Distance at which sinks are seen: cache (bounded by the KV cache, as in StreamingLLM) "
            "or original (the true distance; onnx only)."
        ),
    ] = "cache",
    kv_write: Annotated[
        KvWrite | None,
        typer.Option(
            help="Core ML only: how new keys and values are written to the KV cache. slice updates their rows, "
            "blend multiplies with a mask, host leaves it to the app. Default: slice."
        ),
    ] = None,
    vocabulary_bits: Annotated[
        int | None,
        typer.Option(
            min=4,
            max=8,
            help="Bits of the embedding and the output head with int4 and pal4: 4 or 8. "
            "Default: 8, or 4 for int4 on coreml.",
        ),
    ] = None,
    parts: Annotated[int, typer.Option(help="Core ML only: number of packages to split the layers into.")] = 1,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="UTF-8 text file of the kind that the model will read. When a float checkpoint is rounded to int4, "
            "the weights that matter most for the file's first 2048 tokens lose least. Default: all count the same."
        ),
    ] = None,
    sink_token: Annotated[
        int | None,
        typer.Option(
            help="Id of a token that the model was trained with in front of every sample: every stream begins with it. "
            "Default: sink_token_id of config.json, or none."
        ),
    ] = None,
) -> None:
    """Export a model to a bundle folder that streams forever.

    A bundle holds the graph, with attention sinks and the sliding window inside it, the tokenizer and a manifest.
    """
    stream = StreamSpec.fitted(sinks, window, max_sinks, chunk, positions, target)
    from edgesink.evaluate.checkpoint_text import first_ids
    from edgesink.export.bundle import write_bundle
    from edgesink.export.recipe import Recipe
    from edgesink.export.source import find_checkpoint

    goal = out or Path(f"{understand(model).short}-{target}-{precision}")
    recipe = Recipe.fitted(target, stream, precision, kv_write, vocabulary_bits, parts, sink_token)
    talk = on_terminal()
    checkpoint = find_checkpoint(model, talk.say)
    ids = first_ids(checkpoint, calibrate, CALIBRATION_TOKENS) if calibrate else None
    manifest = write_bundle(checkpoint, goal, recipe, talk.on_progress, talk.say, ids)
    say(f"weights: {manifest.weights}")
    say(f"{megabytes(manifest.weight_bytes)} of weights, {megabytes(manifest.state_bytes)} of state that never grows")
    for note in manifest.chat_notes:
        say(f"chat: {note}")
    print(goal)
