"""Writes a bundle: whole or not at all. Owns the order of an export, and what its manifest says."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from edgesink.callbacks import OnProgress, Say, silent
from edgesink.errors import BadOption
from edgesink.export.bundle_readme import bundle_readme
from edgesink.export.checkpoint import Checkpoint, open_checkpoint, weight_names
from edgesink.export.estimate import bundle_bytes, scratch_bytes
from edgesink.export.recipe import Recipe
from edgesink.export.states import float32_in_kernels, states_of
from edgesink.export.tokenizer_files import write_tokenizer
from edgesink.export.weights import Energies, Weights, counted, describe_weights, held_weights, rounds_floats
from edgesink.files import check_space, place_errors, recover_folder, whole_folder
from edgesink.manifest import KERNELS_GRAPH, MANIFEST, ONNX_DATA, ONNX_GRAPH, Manifest, describe_file
from edgesink.packages import EXPORT, require
from edgesink.spec import ModelSpec, StreamSpec
from edgesink.targets import ROWS, KvWrite, Precision, Target
from edgesink.turns import Turns
from edgesink.version import __version__

README = "README.md"
TOOLS = ("torch", "transformers", "onnx", "onnxruntime", "coremltools", "numpy")


def export(
    checkpoint_path: Path,
    out: Path,
    target: Target = "onnx",
    stream: StreamSpec | None = None,
    precision: Precision = "int4",
    progress: OnProgress = silent,
    kv_write: KvWrite | None = None,
    vocabulary_bits: int | None = None,
    parts: int = 1,
    sink_token: int | None = None,
    say: Say = silent,
    calibration: np.ndarray | None = None,
) -> Manifest:
    """`write_bundle` with the recipe's fields as arguments; those left out take the target's defaults."""
    recipe = Recipe.fitted(target, stream, precision, kv_write, vocabulary_bits, parts, sink_token)
    return write_bundle(checkpoint_path, out, recipe, progress, say, calibration)


def write_bundle(
    checkpoint_path: Path,
    out: Path,
    recipe: Recipe,
    on_progress: OnProgress = silent,
    say: Say = silent,
    calibration: np.ndarray | None = None,
) -> Manifest:
    """Export a checkpoint to the bundle folder `out`.

    Args:
        checkpoint_path: a folder of safetensors or a `.gguf` file.
        out: replaced if it is a bundle, made if it is nothing; anything else there is refused.
        recipe: what is asked for.
        on_progress: told when a weight is first read: how many were, of how many, its name.
        say: told what people should know of the model's text.
        calibration: ids [n] of a text of the kind that the model will read; weights in int4 are then rounded with
            regard to how large their inputs are in it.
    Raises:
        BadCheckpoint, BadOption, MissingPackage, NoSpace: nothing is left behind.
    """
    row = ROWS[recipe.target]
    require(EXPORT, "export", "exporting")
    require(row.packages, row.extra, f"exporting for {recipe.target}")
    _check_goal(out)
    checkpoint = open_checkpoint(checkpoint_path)
    recipe.check_model(checkpoint.model)
    check_space(out.parent, bundle_bytes(checkpoint, recipe) + scratch_bytes(checkpoint, recipe))
    energies = None if calibration is None else _energies(checkpoint, recipe, calibration, on_progress)
    with whole_folder(out) as folder:
        weights = held_weights(checkpoint, recipe.precision, recipe.vocabulary_bits, energies)
        weights = counted(weights, len(weight_names(checkpoint.model)), on_progress)
        draft = _draft(checkpoint, recipe)
        wide = float32_in_kernels(checkpoint.model, recipe, weights)
        draft = dataclasses.replace(draft, float32_in_kernels=wide)
        if energies is not None:
            draft = dataclasses.replace(draft, weights=f"{draft.weights}, calibrated")
        step_bytes = _write_graph(folder, checkpoint.model, recipe, draft, weights)
        turns = write_tokenizer(checkpoint, folder)
        files = tuple(describe_file(folder, path) for path in sorted(folder.rglob("*")) if path.is_file())
        manifest = dataclasses.replace(draft, files=files, step_weight_bytes=step_bytes, **_conversation(turns, draft))
        (folder / README).write_text(bundle_readme(manifest), encoding="utf-8")
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    if not manifest.eos_ids:
        say("this checkpoint names no end token: an answer goes on until it is stopped")
    if dropped := checkpoint.dropped_tokens:
        say(f"the embedding has no row for {', '.join(dropped)}: in a text they are like any other words")
    seen, trained = recipe.stream.capacity, checkpoint.model.context
    if seen > trained:
        say(f"a token sees {seen} tokens, and the model was trained with {trained}: export with a --window that fits")
    return manifest


def _energies(checkpoint: Checkpoint, recipe: Recipe, ids: np.ndarray, on_progress: OnProgress) -> Energies:
    """See `calibrate`; BadOption where they would change nothing."""
    if recipe.precision != "int4":
        raise BadOption(f"--calibrate with --precision {recipe.precision}", "int4", "leave one of them out")
    if not len(ids):
        raise BadOption("an empty text to calibrate with", "a few thousand words of the kind that the model will read")
    if not rounds_floats(checkpoint, recipe.precision, recipe.vocabulary_bits):
        raise BadOption(
            f"--calibrate for {checkpoint.path}, whose quantised weights are kept as they are",
            "a checkpoint in floats",
            "leave it out",
        )
    from edgesink.export.calibrate import input_energies

    return input_energies(checkpoint, ids, on_progress)


def _draft(checkpoint: Checkpoint, recipe: Recipe) -> Manifest:
    """The manifest before there are files."""
    model = checkpoint.model
    return Manifest(
        target=recipe.target,
        name=model.name,
        family=model.architecture,
        vocab=model.vocab,
        stream=recipe.stream,
        views=model.rings(recipe.stream),
        states=states_of(model, recipe),
        precision=recipe.precision,
        weights=describe_weights(checkpoint, recipe.precision, recipe.vocabulary_bits),
        bos_id=checkpoint.bos_id,
        eos_ids=checkpoint.eos_ids,
        turns=None,
        no_turns="they are not cut yet",
        files=(),
        tools={"edgesink": __version__, **_tool_versions()},
        architecture=model.as_data(),
        kv_write=recipe.kv_write,
        vocabulary_bits=recipe.vocabulary_bits,
        parts=recipe.parts,
        logit_rows=recipe.stream.chunk if recipe.target == "onnx" and recipe.stream.chunk > 1 else None,
        sink_token_id=checkpoint.sink_token_id if recipe.sink_token is None else recipe.sink_token,
        sampling=checkpoint.sampling,
    )


def _conversation(turns: Turns | str, draft: Manifest) -> dict[str, Any]:
    """The manifest's fields of a conversation; what a template writes behind an answer ends one."""
    if isinstance(turns, str):
        return {"turns": None, "no_turns": turns}
    if turns.ids and turns.ids[-1] >= draft.vocab:
        return {"turns": None, "no_turns": f"its chat template writes token {turns.ids[-1]} of {draft.vocab}"}
    ends = {*draft.eos_ids} if turns.end_id is None else {*draft.eos_ids, turns.end_id}
    return {"turns": turns, "no_turns": None, "eos_ids": tuple(sorted(ends))}


def _write_graph(folder: Path, model: ModelSpec, recipe: Recipe, draft: Manifest, weights: Weights) -> int | None:
    """The bytes of weights that a step of what was written reads, where they are counted."""
    if recipe.target == "onnx":
        return _write_onnx(folder, model, recipe, draft, weights)
    if recipe.target == "coreml":
        from edgesink.export.to_coreml.functions import write_coreml

        write_coreml(folder, model, recipe, draft, weights)
    else:
        from edgesink.export.to_coreai import write_coreai

        write_coreai(folder, model, recipe, weights)
    return None


def _write_onnx(folder: Path, model: ModelSpec, recipe: Recipe, draft: Manifest, weights: Weights) -> int:
    from edgesink.export.to_onnx.builder import WeightFile
    from edgesink.export.to_onnx.kernels import runs_on_kernels, write_kernels_graph
    from edgesink.export.to_onnx.ops import write_onnx
    from edgesink.export.to_onnx.weights import OnnxWeights

    with closing(WeightFile(folder / ONNX_DATA)) as file:
        stored = OnnxWeights(file, weights)
        # a GGUF of 4 bits has the same weights in int8 as in int4: what can be spared is the rounding of activations
        exact = recipe.precision == "int8"
        write_onnx(folder / ONNX_GRAPH, model, recipe.stream, stored, float_activations=exact)
        if runs_on_kernels(model, recipe.precision):
            wide = draft.float32_in_kernels or ()
            write_kernels_graph(folder / KERNELS_GRAPH, model, recipe.stream, stored, wide)
        return stored.step_bytes(model.vocab, model.tied)


def _check_goal(out: Path) -> None:
    recover_folder(out)
    if out.name in ("", ".."):
        raise BadOption(f"{out} cannot be replaced as a whole", "the name of a new folder", "choose another --out")
    with place_errors(out):
        if not out.exists() or (out / MANIFEST).is_file():
            return
    if not out.is_dir() or any(out.iterdir()):
        raise BadOption(f"{out} exists and is not a bundle", "a new folder or an older bundle", "choose another --out")


def _tool_versions() -> dict[str, str]:
    versions = {}
    for tool in TOOLS:
        try:
            versions[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return versions
