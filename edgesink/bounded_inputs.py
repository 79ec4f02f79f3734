"""What the functions of a bounded-frame program are given, on Apple's targets alike: padded chunks, int32, frames.

Owns which function runs a piece of a stream and with which integers; the program itself is `export.attention`'s
`frame_attention`.
"""

from __future__ import annotations

import numpy as np

from edgesink import names
from edgesink.manifest import Manifest


def bounded_inputs(manifest: Manifest, ids: np.ndarray, position: int, sinks: int) -> tuple[str, dict[str, np.ndarray]]:
    """The function for ids (int [T], at most a chunk) that stand at `position`, and its inputs, int32 each."""
    single, stream = len(ids) == 1, manifest.stream
    padding = 0 if single else stream.chunk - len(ids)
    inputs = {
        names.IDS: np.pad(ids, (0, padding))[None],
        names.POSITION: np.array([stream.layer_ring(view, sinks).frame(position) for view in manifest.views]),
        names.SINKS: np.array([sinks]),
        **({} if single else {names.LENGTH: np.array([len(ids)])}),
    }
    function = names.DECODE if single else names.PREFILL
    return function, {name: value.astype(np.int32) for name, value in inputs.items()}
