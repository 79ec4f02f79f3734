"""Verifying a bundle: its files, its oracle, its text; what `edgesink verify` does around the comparison itself."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from edgesink.errors import BadOption
from edgesink.manifest import GOLDEN_STREAM, Manifest, describe_file, replace_manifest
from edgesink.sample_text import lines
from edgesink.verify.compare import Report, verify
from edgesink.verify.runners import OnnxRunner, Runner, open_runner
from edgesink.verify.tolerances import tolerance


def verify_bundle(
    bundle: Path,
    checkpoint_path: Path,
    device: str = "cpu",
    tokens: int | None = None,
    sinks: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    opened: Callable[[Path, Manifest], Runner] | None = None,
    kernels: bool = False,
) -> Report:
    """Hold the bundle against the oracle; write the result, and golden tokens for a device, into the bundle.

    The graph for our kernels is held against it with `kernels`, and then nothing is written: what a bundle says of
    itself is said of what runs everywhere.

    Args:
        bundle: the folder; its files are checked first.
        checkpoint_path: what it was exported from, a folder of safetensors or a `.gguf` file.
        device: where both run: "cpu" or "cuda".
        tokens: how many to feed; None goes through the ring twice.
        sinks: of the stream; None takes the bundle's default.
        progress: told (tokens done, tokens in all).
        opened: opens what runs the bundle; None takes the target's runner on `device`.
    Raises:
        BadBundle, BadCheckpoint, BadOption, MissingPackage: nothing could be verified. A bundle that is verified and
            found wrong is no exception: the report says so.
    """
    from edgesink.export.checkpoint import open_checkpoint
    from edgesink.reference import Reference
    from edgesink.verify.held_model import held_model

    manifest = Manifest.read(bundle)
    manifest.check_files(bundle)
    ring = manifest.stream.ring(sinks)
    if kernels:
        opened = partial(OnnxRunner, device=device, kernels=True)
    runner = opened(bundle, manifest) if opened else open_runner(bundle, manifest, device)
    model = open_checkpoint(checkpoint_path).model
    if model.as_data() != manifest.architecture:
        raise BadOption(
            f"the bundle is of {manifest.name}, the checkpoint of {model.name}",
            "the checkpoint that the bundle was exported from",
            "name it with --model",
        )
    weights = held_model(checkpoint_path, manifest.precision, device, vocabulary_bits=manifest.vocabulary_bits)
    oracle = Reference(weights, ring.sinks, ring.window, positions=manifest.stream.positions)
    total = tokens or 2 * ring.rows + ring.chunk
    ids = sample_ids(bundle, total)
    report = verify(
        runner,
        oracle,
        ring,
        ids,
        tolerance(manifest, device, ring.sinks, kernels),
        lambda done: progress(done, total),
    )
    if not kernels:
        _record(bundle, manifest, report, ids)
    return report


def _record(bundle: Path, manifest: Manifest, report: Report, ids: np.ndarray) -> None:
    """Write the result and, if it is good, the golden tokens. Stopped anywhere, the bundle is one that loads."""
    others = tuple(file for file in manifest.files if file.path != GOLDEN_STREAM)
    manifest = dataclasses.replace(manifest, parity=report.parity(), files=others)
    replace_manifest(bundle, manifest)
    golden = bundle / GOLDEN_STREAM
    golden.unlink(missing_ok=True)
    if not report.failures:
        data = {"format": 1, "sinks": report.sinks, "prompt": ids.tolist(), "expected": report.greedy[1]}
        golden.write_text(json.dumps(data) + "\n", encoding="utf-8")
        replace_manifest(bundle, dataclasses.replace(manifest, files=(*others, describe_file(bundle, golden))))


def sample_ids(bundle: Path, count: int) -> np.ndarray:
    """Ids of an endless plain text that needs no file: the lines of the recall task. int64 [count]."""
    from edgesink.runtime.tokenizer import Tokenizer

    tokenizer = Tokenizer.of_bundle(bundle)
    ids = itertools.chain.from_iterable(tokenizer.encode(line.text) for line in lines())
    return np.fromiter(ids, np.int64, count)
