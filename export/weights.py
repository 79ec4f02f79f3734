"""Which precision each weight is held in: the one rule between a checkpoint and an emitter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgesink.errors import BadCheckpoint
from edgesink.export.checkpoint import Checkpoint, weight_names, weight_shape
from edgesink.export.palettize import Palette, palettize
from edgesink.export.quantize import Blocks, check_columns, quantize
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
    vocabulary larger than asked: rounding a second time costs far more than the first time did. BadOption names a
    matrix that has no whole number of blocks.
    """

    if precision in BITS:
        for weight in weight_names(checkpoint.model):
            shape = weight_shape(checkpoint.model, weight)
            if len(shape) == 2 and (precision != "pal4" or weight in ("embedding", "head")):
                check_columns(shape[1], f"weight {weight}")

    def held(weight: str) -> np.ndarray | Blocks | Palette:
        if precision in ("fp32", "fp16") or weight.endswith("norm"):
            values = checkpoint.tensor(weight)
            return _as_half(values, weight) if precision == "fp16" and not weight.endswith("norm") else values
        vocabulary = weight in ("embedding", "head")
        bits = vocabulary_bits if vocabulary else BITS[precision]
        if precision == "pal4" and not vocabulary:
            return palettize(checkpoint.tensor(weight), bits, PALETTE_GROUP)
        carried = checkpoint.blocks(weight)
        if carried is not None and (carried.bits <= bits or not vocabulary):
            return carried
        return quantize(checkpoint.tensor(weight), bits)

    return held


def _as_half(values: np.ndarray, weight: str) -> np.ndarray:
    """float16; BadCheckpoint if a value is beyond its range."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not (np.isfinite(half.min()) and np.isfinite(half.max())):
        raise BadCheckpoint(f"weight {weight} has a value beyond the range of float16", "", "take --precision int8")
    return half


def describe_weights(checkpoint: Checkpoint, precision: Precision, vocabulary_bits: int = VOCABULARY_BITS) -> str:
    """How the weights are held, for the manifest and for people."""
    if precision not in BITS:
        return {"fp32": "float32", "fp16": "float16"}[precision]
    vocabulary = f"embedding and head {vocabulary_bits} bit"
    if precision == "pal4":
        return f"4 bit palettes for {PALETTE_GROUP} rows each, {vocabulary}, blocks of 32"
    own = f"{BITS[precision]} bit, {vocabulary}, blocks of 32"
    if checkpoint.kinds is not None:
        return f"{checkpoint.kinds} carried over from the GGUF where they map; else {own}"
    return own
