"""What a bundle's layers hold as values of some tokens, whatever runs it.

Owns how a runner's state is read as rows of tokens. Knows nothing of what is done with them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from edgesink.errors import BadOption
from edgesink.manifest import Manifest
from edgesink.verify.runners import open_runner


def value_rows(bundle: Path, manifest: Manifest, layers: Collection[int], ids: np.ndarray) -> dict[int, np.ndarray]:
    """The values of ids with which a stream of the bundle begins, in some layers.

    Args:
        layers: of the model, from 0.
        ids: int64 [n], the model's own sink token included; no more than a layer's ring holds.
    Returns:
        For each layer float32 [n, K D].
    Raises:
        BadOption: the manifest does not say where a layer's values are, or there are too many ids.
        MissingPackage: nothing on this machine runs the bundle.
    """
    stream, places = manifest.stream, {layer: manifest.values_of(layer) for layer in layers}
    rings = {layer: stream.layer_ring(manifest.views[state.view]) for layer, (state, _) in places.items()}
    if len(ids) > (most := min(ring.slots for ring in rings.values())):
        raise BadOption(f"{len(ids)} tokens", f"{most} at most, which the rings hold")
    runner = open_runner(bundle, manifest)
    start = 0
    for size in stream.ring().chunks(len(ids)):
        runner.feed(ids[start : start + size], start, stream.sinks)
        start += size
    rows = {}
    for layer, (state, block) in places.items():
        slots = [rings[layer].slot(token) for token in range(len(ids))]
        held = runner.state(state.name, state.part)[block][:, slots]  # [K, n, D]
        rows[layer] = held.transpose(1, 0, 2).reshape(len(ids), -1).astype(np.float32)
    return rows
