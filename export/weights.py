"""Which precision each weight is held in: the one rule between a checkpoint and an emitter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgesink.export.checkpoint import Checkpoint, GgufCheckpoint
from edgesink.export.quantize import Blocks, quantize
from edgesink.spec import Precision

Weights = Callable[[str], "np.ndarray | Blocks"]
"""Name -> the weight as it is to be stored: float32, float16 or blocks; [out, in]."""

BITS: dict[Precision, int] = {"int8": 8, "int4": 4}
VOCABULARY_BITS = 8  # the embedding and the head suffer most from 4


def held_weights(checkpoint: Checkpoint, precision: Precision) -> Weights:
    """The weights of `checkpoint`, each read and rounded when it is asked for.

    Norms stay float32. What a GGUF quantised already to no more than the bits asked for, or to 8 where 4 are asked
    for, is carried over exactly: rounding a second time costs far more than the first time did.
    """

    def held(weight: str) -> np.ndarray | Blocks:
        if precision in ("fp32", "fp16") or weight.endswith("norm"):
            dtype = np.float16 if precision == "fp16" and not weight.endswith("norm") else np.float32
            return checkpoint.tensor(weight).astype(dtype, copy=False)
        bits = VOCABULARY_BITS if weight in ("embedding", "head") else BITS[precision]
        carried = checkpoint.blocks(weight)
        if carried is not None and (carried.bits <= BITS[precision] or carried.bits == 8):
            return carried
        return quantize(checkpoint.tensor(weight), bits)

    return held


def describe_weights(checkpoint: Checkpoint, precision: Precision) -> str:
    """How the weights are held, for the manifest and for people."""
    if precision not in BITS:
        return {"fp32": "float32", "fp16": "float16"}[precision]
    own = f"{BITS[precision]} bit, embedding and head {VOCABULARY_BITS} bit, blocks of 32"
    if isinstance(checkpoint, GgufCheckpoint):
        return f"{checkpoint.kinds} carried over from the GGUF where they map; else {own}"
    return own
