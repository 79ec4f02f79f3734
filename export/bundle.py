"""Writes a bundle: whole or not at all.

Owns the order of an export and its place on disk: everything is made in a folder beside the goal and renamed at the
end, so an interrupted export leaves nothing and a bundle that exists is never half replaced.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgesink.errors import BadOption, NoSpace
from edgesink.export.checkpoint import Checkpoint, open_checkpoint, weight_names, weight_shape
from edgesink.export.tokenizer_files import write_tokenizer
from edgesink.export.weights import BITS, VOCABULARY_BITS, Weights, describe_weights, held_weights
from edgesink.manifest import MANIFEST, Manifest, describe_file
from edgesink.spec import Precision, StreamSpec, Target
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
) -> Manifest:
    """Export a checkpoint to the bundle folder `out`.

    Args:
        checkpoint_path: a folder of safetensors or a `.gguf` file.
        out: replaced if it is a bundle, made if it is nothing; anything else there is refused.
        target: what runs it.
        stream: sinks, window, chunk; None takes the defaults.
        precision: of the weights.
        progress: draw a bar on stderr, if that is a terminal.
    Raises:
        BadCheckpoint, BadOption, NoSpace: nothing is left behind.
    """
    _check_goal(out)
    checkpoint = open_checkpoint(checkpoint_path)
    stream = stream or StreamSpec()
    out.parent.mkdir(parents=True, exist_ok=True)
    _check_space(out.parent, estimated_bytes(checkpoint, precision))
    with _aside(out) as folder:
        weights = held_weights(checkpoint, precision)
        if progress:
            weights = _with_bar(weights, len(weight_names(checkpoint.model)))
        write_graph(target, folder, checkpoint, stream, weights)
        write_tokenizer(checkpoint, folder)
        manifest = _manifest(folder, target, checkpoint, stream, precision)
        (folder / README).write_text(_readme(manifest), encoding="utf-8")
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def write_graph(target: Target, folder: Path, checkpoint: Checkpoint, stream: StreamSpec, weights: Weights) -> None:
    """Write the graph of the target into `folder`."""
    if target == "onnx":
        from edgesink.export.to_onnx import write_onnx

        write_onnx(folder, checkpoint.model, stream, weights)
    else:
        raise BadOption(f"target {target!r}", "onnx")


def estimated_bytes(checkpoint: Checkpoint, precision: Precision) -> int:
    """About how large the bundle gets: weights with their scales, and a little for the rest."""
    total = 0
    for name in weight_names(checkpoint.model):
        size = 1
        for length in weight_shape(checkpoint.model, name):
            size *= length
        bits = {"fp32": 32, "fp16": 16}.get(precision) or BITS[precision]
        if precision in BITS:
            bits = (VOCABULARY_BITS if name in ("embedding", "head") else bits) + 2  # scales and zero points
        total += size * bits // 8
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
        raise BadOption(f"{out} exists and is no bundle", "a new folder or an older bundle", "choose another --out")


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


def _manifest(
    folder: Path, target: Target, checkpoint: Checkpoint, stream: StreamSpec, precision: Precision
) -> Manifest:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Manifest(
        target=target,
        model=checkpoint.model,
        stream=stream,
        precision=precision,
        weights=describe_weights(checkpoint, precision),
        state_dtype="float32" if target == "onnx" else "float16",
        bos_id=checkpoint.bos_id,
        eos_ids=checkpoint.eos_ids,
        files=tuple(describe_file(folder, path) for path in files),
        tools={"edgesink": __version__, **_tool_versions()},
    )


def _tool_versions() -> dict[str, str]:
    versions = {}
    for tool in TOOLS:
        try:
            versions[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return versions


def _readme(manifest: Manifest) -> str:
    model, stream = manifest.model, manifest.stream
    return f"""# {model.name} for edgesink

A {model.architecture} model of {model.layers} layers as a {manifest.target} graph, weights {manifest.weights}.
It streams for ever: {stream.sinks} pinned first tokens (up to {stream.max_sinks}) and the most recent {stream.window}
are remembered, in {manifest.state_bytes} bytes of state from the first token to the last.

    edgesink chat {{this folder}}
    edgesink inspect {{this folder}}
    edgesink verify {{this folder}}

`manifest.json` says everything else. It does not remember what the window has left behind.
"""
