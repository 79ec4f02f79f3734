"""Verifying a bundle: its files, its oracle, its text; what `edgesink verify` does around the comparison itself."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgesink.errors import BadOption
from edgesink.manifest import GOLDEN_STREAM, Manifest, describe_file, replace_manifest
from edgesink.ring import Ring
from edgesink.sample_text import lines
from edgesink.spec import ComputeUnits, Device, TorchType
from edgesink.verify.compare import Report, verify
from edgesink.verify.runners import open_runners
from edgesink.verify.tolerances import tolerance, torch_tolerance
from edgesink.verify.torch_runner import TorchRunner


def verify_bundle(
    bundle: Path,
    checkpoint_path: Path,
    device: Device = "cpu",
    tokens: int | None = None,
    sinks: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    compute_units: ComputeUnits = "cpu_and_gpu",
    torch_type: TorchType | None = None,
) -> list[Report]:
    """Compare the bundle with the oracle, in everything here that runs it; write the result into the bundle.

    Golden tokens for a device are written beside it. The oracle runs once for all runners.

    Args:
        bundle: the folder; its files are checked first.
        checkpoint_path: what it was exported from, a folder of safetensors or a `.gguf` file.
        device: where the oracle and the bundle run: "cpu" or "cuda".
        tokens: how many to feed; None goes through the ring twice.
        sinks: of the stream; None takes the bundle's default.
        progress: told (tokens done, tokens in all).
        compute_units: for Core ML on a Mac.
        torch_type: of the exported decoder in PyTorch, which is then compared too; None leaves it out on a CPU and
            takes float32 on a GPU, where it needs no other package than PyTorch.
    Returns:
        A report for each runner: the target's own first, then our kernels or Core ML where this machine has them.
    Raises:
        BadBundle, BadCheckpoint, BadOption, MissingPackage: nothing could be verified. A bundle that is verified and
            found wrong is no exception: a report says so.
    """
    manifest = Manifest.read(bundle)
    manifest.check_files(bundle)
    ring = manifest.stream.ring(sinks)
    if device == "cuda" and torch_type is None:
        torch_type = "float32"
    torch = partial(TorchRunner, manifest, checkpoint_path, device, torch_type) if torch_type else None
    runners = open_runners(bundle, manifest, device, compute_units, torch)
    oracle = _oracle(manifest, checkpoint_path, ring, device)
    ids = np.append(np.array(manifest.prefix, np.int64), sample_ids(bundle, tokens or 2 * ring.rows + ring.chunk))
    limits = [
        torch_tolerance(torch_type, ring.sinks)
        if torch_type and runner.kind == "torch"
        else tolerance(manifest, device, ring.sinks, runner.kind == "kernels")
        for runner in runners
    ]
    candidates = list(zip(runners, limits, strict=True))
    reports = verify(candidates, oracle, ring, ids, lambda done: progress(done, len(ids)))
    if manifest.target == "coreml":
        from edgesink.verify.coreml_packages import structure_findings

        reports[0].structure = structure_findings(bundle, manifest)
    if (report := recorded(reports)) is not None:
        _record(bundle, manifest, report, ids)
    return reports


def recorded(reports: Sequence[Report]) -> Report | None:
    """The report that the bundle carries: of what runs everywhere the first that failed, else the last, the nearest
    to a device. Our kernels are not everywhere, and PyTorch runs another file."""
    everywhere = [report for report in reports if report.kind not in ("kernels", "torch")]
    return next((report for report in everywhere if report.failures), everywhere[-1] if everywhere else None)


def _oracle(manifest: Manifest, checkpoint_path: Path, ring: Ring, device: Device) -> Any:
    """The reference with the weights that the bundle holds; BadOption if the checkpoint is of another model."""
    from edgesink.export.checkpoint import open_checkpoint
    from edgesink.reference import Reference
    from edgesink.verify.held_model import held_model

    model = open_checkpoint(checkpoint_path).model
    if model.as_data() != manifest.architecture:
        raise BadOption(
            f"the bundle is of {manifest.name}, the checkpoint of {model.name}",
            "the checkpoint that the bundle was exported from",
            "name it with --model",
        )
    weights = held_model(checkpoint_path, manifest.precision, device, vocabulary_bits=manifest.vocabulary_bits)
    return Reference(weights, ring.sinks, ring.window, positions=manifest.stream.positions)


def _record(bundle: Path, manifest: Manifest, report: Report, ids: np.ndarray) -> None:
    """Write the result and, if it is good, the golden tokens. Stopped anywhere, the bundle is one that loads."""
    others = tuple(file for file in manifest.files if file.path != GOLDEN_STREAM)
    manifest = dataclasses.replace(manifest, parity=report.parity(), files=others)
    replace_manifest(bundle, manifest)
    golden = bundle / GOLDEN_STREAM
    golden.unlink(missing_ok=True)
    if not report.failures:
        prompt = ids[len(manifest.prefix) :].tolist()  # a device begins its stream with the prefix anyway
        data = {"format": 1, "sinks": report.sinks, "prompt": prompt, "expected": report.greedy[1]}
        golden.write_text(json.dumps(data) + "\n", encoding="utf-8")
        replace_manifest(bundle, dataclasses.replace(manifest, files=(*others, describe_file(bundle, golden))))


def sample_ids(bundle: Path, count: int) -> np.ndarray:
    """Ids of an endless plain text that needs no file: the lines of the recall task. int64 [count]."""
    from edgesink.runtime.tokenizer import Tokenizer

    tokenizer = Tokenizer.of_bundle(bundle)
    ids = itertools.chain.from_iterable(tokenizer.encode(line.text) for line in lines())
    return np.fromiter(ids, np.int64, count)
