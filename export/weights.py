"""Which precision each weight is held in: the one rule between a checkpoint and an emitter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgesink.export.checkpoint import Checkpoint, GgufCheckpoint
from edgesink.export.palettize import Palette, palettize
from edgesink.export.quantize import Blocks, quantize
from edgesink.spec import Precision

Weights = Callable[[str], "np.ndarray | Blocks | Palette"]
"""Name -> the weight as it is to be stored: float32, float16, blocks or a palette; [out, in]."""

BITS: dict[Precision, int] = {"int8": 8, "int4": 4, "pal4": 4}
VOCABULARY_BITS = 8  # the embedding and the head suffer most from 4
PALETTE_GROUP = 8  # rows that share a table of 16


def held_weights(checkpoint: Checkpoint, precision: Precision, vocabulary_bits: int = VOCABULARY_BITS) -> Weights:
    """The weights of `checkpoint`, each read and rounded when it is asked for.

    `vocabulary_bits` are those of the embedding and the head where weights are quantised at all. Norms stay float32.
    What a GGUF quantised already is carried over exactly, though it be to 8 bits where 4 are asked for, but for a
    vocabulary larger than asked: rounding a second time costs far more than the first time did.
    """

    def held(weight: str) -> np.ndarray | Blocks | Palette:
        if precision in ("fp32", "fp16") or weight.endswith("norm"):
            dtype = np.float16 if precision == "fp16" and not weight.endswith("norm") else np.float32
            return checkpoint.tensor(weight).astype(dtype, copy=False)
        vocabulary = weight in ("embedding", "head")
        bits = vocabulary_bits if vocabulary else BITS[precision]
        if precision == "pal4" and not vocabulary:
            return palettize(checkpoint.tensor(weight), bits, PALETTE_GROUP)
        carried = checkpoint.blocks(weight)
        if carried is not None and (carried.bits <= bits or not vocabulary):
            return carried
        return quantize(checkpoint.tensor(weight), bits)

    return held


def describe_weights(checkpoint: Checkpoint, precision: Precision, vocabulary_bits: int = VOCABULARY_BITS) -> str:
    """How the weights are held, for the manifest and for people."""
    if precision not in BITS:
        return {"fp32": "float32", "fp16": "float16"}[precision]
    vocabulary = f"embedding and head {vocabulary_bits} bit"
    if precision == "pal4":
        return f"4 bit palettes for {PALETTE_GROUP} rows each, {vocabulary}, blocks of 32"
    own = f"{BITS[precision]} bit, {vocabulary}, blocks of 32"
    if isinstance(checkpoint, GgufCheckpoint):
        return f"{checkpoint.kinds} carried over from the GGUF where they map; else {own}"
    return own
