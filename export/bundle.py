"""Writes a bundle: whole or not at all.

Owns the order of an export and its place on disk: everything is made in a folder beside the goal and renamed at the
end, so an interrupted export leaves nothing and a bundle that exists is never half replaced.
"""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgesink.errors import BadOption, NoSpace
from edgesink.export.bundle_readme import bundle_readme
from edgesink.export.checkpoint import Checkpoint, open_checkpoint, weight_names, weight_shape
from edgesink.export.tokenizer_files import write_tokenizer
from edgesink.export.weights import BITS, VOCABULARY_BITS, Weights, describe_weights, held_weights
from edgesink.manifest import (
    KERNELS_GRAPH,
    KERNELS_IMAGE,
    MANIFEST,
    ONNX_DATA,
    ONNX_GRAPH,
    BundleFile,
    Manifest,
    StateDtype,
    describe_file,
)
from edgesink.packages import EXPORT, require
from edgesink.spec import KvWrite, Precision, StreamSpec, Target
from edgesink.version import __version__

README = "README.md"
TOOLS = ("torch", "transformers", "onnx", "onnxruntime", "coremltools", "numpy")


def export(
    checkpoint_path: Path,
    out: Path,
    target: Target = "onnx",
    stream: StreamSpec | None = None,
    precision: Precision = "int4",
    progress: bool = False,
    kv_write: KvWrite | None = None,
    vocabulary_bits: int | None = None,
    parts: int = 1,
) -> Manifest:
    """Export a checkpoint to the bundle folder `out`.

    Args:
        checkpoint_path: a folder of safetensors or a `.gguf` file.
        out: replaced if it is a bundle, made if it is nothing; anything else there is refused.
        target: what runs it.
        stream: sinks, window, chunk; None takes the defaults.
        precision: of the weights.
        progress: draw a bar on stderr, if that is a terminal.
        kv_write: Core ML only, how new keys and values reach the state; None takes "slice".
        vocabulary_bits: of the embedding and the head in a quantised bundle, 4 or 8; None takes the target's default.
        parts: Core ML only, how many packages the layers are cut into.
    Raises:
        BadCheckpoint, BadOption, NoSpace: nothing is left behind.
    """
    require(EXPORT, "export", "exporting")
    _check_goal(out)
    checkpoint = open_checkpoint(checkpoint_path)
    stream = stream or StreamSpec.fitted(target=target)
    vocabulary_bits = vocabulary_bits or default_vocabulary_bits(target, precision)
    options = _checked_options(target, stream, precision, kv_write, vocabulary_bits)
    if parts != 1:
        options["parts"] = _checked_parts(parts, target, checkpoint.model.layers)
    out.parent.mkdir(parents=True, exist_ok=True)
    _check_space(out.parent, estimated_bytes(checkpoint, precision, target, parts))
    with _aside(out) as folder:
        weights = held_weights(checkpoint, precision, vocabulary_bits)
        if progress:
            weights = _with_bar(weights, len(weight_names(checkpoint.model)))
        manifest = Manifest(
            target=target,
            model=checkpoint.model,
            stream=stream,
            precision=precision,
            weights=describe_weights(checkpoint, precision, vocabulary_bits),
            state_dtype=_state_dtype(target, precision),
            bos_id=checkpoint.bos_id,
            eos_ids=checkpoint.eos_ids,
            files=(),
            tools={"edgesink": __version__, **_tool_versions()},
            options=options,
        )
        write_graph(folder, manifest, weights)
        write_tokenizer(checkpoint, folder)
        manifest = dataclasses.replace(manifest, files=_described_files(folder))
        (folder / README).write_text(bundle_readme(manifest), encoding="utf-8")
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def write_graph(folder: Path, manifest: Manifest, weights: Weights) -> None:
    """Write the graph that `manifest`, its files not yet known, says into `folder`."""
    if manifest.target == "onnx":
        _write_onnx_graphs(folder, manifest, weights)
    elif manifest.target == "coreml":
        from edgesink.export.to_coreml import write_coreml

        write_coreml(folder, manifest, weights)
    else:
        from edgesink.export.to_coreai import write_coreai

        write_coreai(folder, manifest, weights)


def _write_onnx_graphs(folder: Path, manifest: Manifest, weights: Weights) -> None:
    from edgesink.export.onnx_builder import WeightFile
    from edgesink.export.onnx_weights import OnnxWeights
    from edgesink.export.to_kernels import runs_on_kernels, write_kernels_graph
    from edgesink.export.to_onnx import write_onnx

    model, stream, precision = manifest.model, manifest.stream, manifest.precision
    with closing(WeightFile(folder / ONNX_DATA)) as file:
        stored = OnnxWeights(file, weights)
        # a GGUF of 4 bits has the same weights in int8 as in int4: what can be spared is the rounding of activations
        write_onnx(folder / ONNX_GRAPH, model, stream, stored, float_activations=precision == "int8")
        if runs_on_kernels(model, precision):
            write_kernels_graph(folder / KERNELS_GRAPH, folder / KERNELS_IMAGE, model, stream, stored)


def default_vocabulary_bits(target: Target, precision: Precision) -> int:
    """8, but where a phone's bundle is asked for in 4 bits: there the vocabulary is a fifth of a small model."""
    return 4 if target == "coreml" and precision == "int4" else VOCABULARY_BITS


def _state_dtype(target: Target, precision: Precision) -> StateDtype:
    """Core ML's states are float16 whatever else; Core AI's follow the weights."""
    half = target == "coreml" or (target == "coreai" and precision == "fp16")
    return "float16" if half else "float32"


def _checked_options(
    target: Target, stream: StreamSpec, precision: Precision, kv_write: KvWrite | None, vocabulary_bits: int
) -> dict[str, str]:
    """The options of the target alone; BadOption for what the target cannot do."""
    if target != "coreml":
        if kv_write is not None:
            raise BadOption(f"--kv-write for target {target}", "target coreml", "leave it out")
        if precision == "pal4":
            raise BadOption(f"precision pal4 for target {target}", "target coreml", "take int4")
    if target != "onnx" and stream.positions != "cache":
        raise BadOption(
            f"positions {stream.positions!r} for target {target}",
            "cache: a sink's distance that grows cannot be bounded",
            "take --target onnx to compare the two",
        )
    if target == "coreai" and precision not in ("fp32", "fp16"):
        raise BadOption(f"precision {precision} for target coreai", "fp32 or fp16")
    if target == "coreml" and precision == "fp32":
        raise BadOption("precision fp32 for target coreml", "fp16, int8, int4 or pal4: its states are float16")
    if vocabulary_bits not in (4, 8):
        raise BadOption(f"--vocabulary-bits {vocabulary_bits}", "4 or 8")
    options = {"vocabulary_bits": str(vocabulary_bits)} if vocabulary_bits != VOCABULARY_BITS else {}
    return {"kv_write": kv_write or "slice", **options} if target == "coreml" else options


def _checked_parts(parts: int, target: Target, layers: int) -> str:
    """As the manifest holds it; BadOption where the model cannot be cut so."""
    if target != "coreml":
        raise BadOption(f"--parts {parts} for target {target}", "target coreml")
    if not 1 <= parts <= layers:
        raise BadOption(f"--parts {parts}", f"1 to {layers}, the model's layers")
    return str(parts)


def estimated_bytes(checkpoint: Checkpoint, precision: Precision, target: Target = "onnx", parts: int = 1) -> int:
    """About how much disk the export takes: weights with their scales, and a little for the rest.

    Core ML's weights also lie beside the package while it is made, unpacked.
    """
    total = 0
    for name in weight_names(checkpoint.model):
        size = math.prod(weight_shape(checkpoint.model, name))
        if name == "embedding" and checkpoint.model.tied and parts > 1:
            size *= 2  # the first part and the last hold it
        bits = {"fp32": 32, "fp16": 16}.get(precision) or BITS[precision]
        if precision in BITS:
            bits = (VOCABULARY_BITS if name in ("embedding", "head") else bits) + 2  # scales and zero points
        total += size * bits // 8
        if target == "coreml":
            total += size * (2 if precision == "fp16" else 1)
    return total + (16 << 20)


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end, or vanishes."""
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o755)
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
            os.replace(out, old)
            os.replace(folder, out)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(folder, out)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"{out.parent} is full", "", "free some disk, or choose another --out") from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_goal(out: Path) -> None:
    if not out.exists() or (out / MANIFEST).is_file():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise BadOption(f"{out} exists and is not a bundle", "a new folder or an older bundle", "choose another --out")


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoSpace(
            f"{folder} has {free >> 20} MiB free",
            f"about {needed >> 20} MiB",
            "free some disk, choose another --out, or a smaller --precision",
        )


def _with_bar(weights: Weights, total: int) -> Weights:
    """The same weights, each drawn on a bar as it is asked for."""
    from tqdm import tqdm

    bar = tqdm(total=total, desc="export", unit="tensor", disable=None, leave=False)
    seen: set[str] = set()

    def drawn(name: str) -> object:
        if name not in seen:
            seen.add(name)
            bar.update()
            if len(seen) == total:
                bar.close()
        return weights(name)

    return drawn  # type: ignore[return-value]


def _described_files(folder: Path) -> tuple[BundleFile, ...]:
    return tuple(describe_file(folder, path) for path in sorted(folder.rglob("*")) if path.is_file())


def _tool_versions() -> dict[str, str]:
    versions = {}
    for tool in TOOLS:
        try:
            versions[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return versions
