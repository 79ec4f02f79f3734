"""Verifying a bundle: its files, its oracle, its text; what `edgesink verify` does around the comparison itself."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgesink.errors import BadOption
from edgesink.manifest import Manifest, replace_manifest
from edgesink.recall import lines
from edgesink.runners import open_runner
from edgesink.tolerances import tolerance
from edgesink.verify import Report, verify


def verify_bundle(
    bundle: Path,
    checkpoint_path: Path,
    device: str = "cpu",
    tokens: int | None = None,
    sinks: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Hold the bundle against the oracle and write the result into its manifest.

    Args:
        bundle: the folder; its files are checked first.
        checkpoint_path: what it was exported from, a folder of safetensors or a `.gguf` file.
        device: where both run: "cpu" or "cuda".
        tokens: how many to feed; None goes through the ring twice.
        sinks: of the stream; None takes the bundle's default.
        progress: told (tokens done, tokens in all).
    Raises:
        BadBundle, BadCheckpoint, BadOption, MissingPackage: nothing could be verified. A bundle that is verified and
            found wrong is no exception: the report says so.
    """
    from edgesink.export.checkpoint import open_checkpoint
    from edgesink.held_model import held_model
    from edgesink.reference import Reference

    manifest = Manifest.read(bundle)
    manifest.check_files(bundle)
    ring = manifest.stream.ring(sinks)
    runner = open_runner(bundle, manifest, device)
    model = open_checkpoint(checkpoint_path).model
    if dataclasses.replace(model, name=manifest.model.name) != manifest.model:
        raise BadOption(
            f"the bundle is of {manifest.model.name}, the checkpoint of {model.name}",
            "the checkpoint that the bundle was exported from",
            "name it with --model",
        )
    bits = int(manifest.options.get("vocabulary_bits", 8))
    weights = held_model(checkpoint_path, manifest.precision, device, vocabulary_bits=bits)
    oracle = Reference(weights, ring.sinks, ring.window, positions=manifest.stream.positions)
    total = tokens or 2 * ring.rows + ring.chunk
    report = verify(
        runner,
        oracle,
        ring,
        sample_ids(bundle, total),
        tolerance(manifest, device, ring.sinks),
        lambda done: progress(done, total),
    )
    replace_manifest(bundle, dataclasses.replace(manifest, parity=report.parity()))
    return report


def sample_ids(bundle: Path, count: int) -> np.ndarray:
    """Ids of an endless plain text that needs no file: the lines of the recall task. int64 [count]."""
    from edgesink.runtime.tokenizer import Tokenizer

    tokenizer = Tokenizer.of_bundle(bundle)
    ids = itertools.chain.from_iterable(tokenizer.encode(line.text) for line in lines())
    return np.fromiter(ids, np.int64, count)
