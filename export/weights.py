"""Which form each weight is held in: the one rule between a checkpoint and an emitter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from edgesink.callbacks import OnProgress
from edgesink.errors import BadCheckpoint
from edgesink.export.blocks import Blocks, check_columns
from edgesink.export.checkpoint import Checkpoint, weight_names, weight_shape
from edgesink.export.gguf_blocks import bits_of, is_exact
from edgesink.export.halves import HALVES, Halves
from edgesink.export.palettize import Palette, palettize
from edgesink.export.quantize import quantize
from edgesink.spec import ModelSpec
from edgesink.targets import VOCABULARY_BITS, Precision

Held: TypeAlias = np.ndarray | Blocks | Halves | Palette
"""A weight as it is to be stored: float32, float16, blocks, a GGUF's own floats or a palette; [out, in] or [n]."""

Weights = Callable[[str], Held]
"""Name -> the weight."""

Energies = Mapping[str, np.ndarray]
"""Weight -> mean square of each of its inputs, float32 [K] (`calibrate`)."""

BITS: dict[Precision, int] = {"int8": 8, "int4": 4, "pal4": 4}
PALETTE_GROUP = 8  # rows that share a table of 16
VOCABULARY = ("embedding", "head")


@dataclass(frozen=True)
class Form:
    """How one weight is held."""

    kind: Literal["floats", "blocks", "palette"]
    bits: int  # a value


def form_of(weight: str, model: ModelSpec, precision: Precision, vocabulary_bits: int) -> Form:
    """The rule. A vector is held in float32 whatever the precision: it weighs nothing, and is no matrix to quantise."""
    if len(weight_shape(model, weight)) == 1 or precision == "fp32":
        return Form("floats", 32)
    if precision == "fp16":
        return Form("floats", 16)
    if weight in VOCABULARY:
        return Form("blocks", vocabulary_bits)
    return Form("palette" if precision == "pal4" else "blocks", BITS[precision])


def held_weights(
    checkpoint: Checkpoint,
    precision: Precision,
    vocabulary_bits: int = VOCABULARY_BITS,
    energies: Energies | None = None,
) -> Weights:
    """The weights of `checkpoint`, each read and rounded when it is asked for, with the `energies` of its inputs.

    `vocabulary_bits` are those of the embedding and the head where weights are quantised at all. What a GGUF quantised
    already is carried over (`carried_kind`): rounding a second time costs far more than the first time did.
    BadOption names a matrix that has no whole number of blocks.
    """
    model = checkpoint.model
    for name in weight_names(model):
        if form_of(name, model, precision, vocabulary_bits).kind == "blocks":
            check_columns(weight_shape(model, name)[1], f"weight {name}")

    def held(weight: str) -> Held:
        form = form_of(weight, model, precision, vocabulary_bits)
        if form.kind == "floats":
            values = checkpoint.tensor(weight)
            return _as_half(values, weight) if form.bits == 16 else values
        if form.kind == "palette":
            return palettize(checkpoint.tensor(weight), form.bits, PALETTE_GROUP)
        own = checkpoint.blocks(weight) if carried_kind(checkpoint, weight, form) else None
        return own or quantize(checkpoint.tensor(weight), form.bits, (energies or {}).get(weight))

    return held


def as_floats(weight: Held) -> np.ndarray:
    """The weight's values, float32, contiguous."""
    array = weight.astype(np.float32) if isinstance(weight, np.ndarray) else weight.dequantized()
    return np.ascontiguousarray(array)


def carried_kind(checkpoint: Checkpoint, weight: str, form: Form) -> str | None:
    """The type of what the checkpoint itself quantised, or left in floats beside, and a bundle keeps, though it be in
    8 bits or 16 where 4 are asked for; a vocabulary's only where 8 are. None of what is rounded by our own rule."""
    kind = checkpoint.kind(weight) if form.kind == "blocks" else None
    fits = kind is not None and (form.bits == 8 or bits_of(kind) <= form.bits or weight not in VOCABULARY)
    return kind if fits else None


def rounds_floats(checkpoint: Checkpoint, precision: Precision, vocabulary_bits: int) -> bool:
    """Whether a matrix of floats would be rounded by our own rule."""
    names = weight_names(checkpoint.model)
    forms = {name: form_of(name, checkpoint.model, precision, vocabulary_bits) for name in names}
    return any(form.kind == "blocks" and not carried_kind(checkpoint, name, form) for name, form in forms.items())


def counted(weights: Weights, total: int, on_progress: OnProgress) -> Weights:
    """The same weights; `on_progress` is told when one is first asked for, and that it is one of `total`."""
    seen: set[str] = set()

    def weight(name: str) -> Held:
        if name not in seen:
            seen.add(name)
            on_progress(len(seen), total, name)
        return weights(name)

    return weight


def describe_weights(checkpoint: Checkpoint, precision: Precision, vocabulary_bits: int = VOCABULARY_BITS) -> str:
    """How the weights are held, for the manifest and for people."""
    if precision not in BITS:
        return {"fp32": "float32", "fp16": "float16"}[precision]
    vocabulary = f"embedding and head {vocabulary_bits} bit"
    names = [name for name in weight_names(checkpoint.model) if len(weight_shape(checkpoint.model, name)) == 2]
    forms = {name: form_of(name, checkpoint.model, precision, vocabulary_bits) for name in names}
    kinds = {name: carried_kind(checkpoint, name, form) for name, form in forms.items()}
    if precision == "pal4":
        held = [kinds[name] for name in VOCABULARY if name in kinds]
        bits = sorted({Halves.bits if kind in HALVES else vocabulary_bits for kind in held})
        vocabulary = f"embedding and head {' and '.join(map(str, bits))} bit"
        return f"4 bit palettes for {PALETTE_GROUP} rows each, {vocabulary}, blocks of 32"
    found = sorted({kind for kind in kinds.values() if kind is not None})
    if not found:
        return f"{BITS[precision]} bit, {vocabulary}, blocks of 32"
    exact = [kind for kind in found if is_exact(kind)]
    said = [f"{', '.join(exact)} of the GGUF, bit for bit"] if exact else []
    said += [_rounded(checkpoint, kinds, kind) for kind in found if not is_exact(kind)]
    return "; ".join([*said, *([vocabulary] if None in kinds.values() else [])])


def _rounded(checkpoint: Checkpoint, kinds: Mapping[str, str | None], kind: str) -> str:
    """What is said of the matrices of a type that is not carried over exactly."""
    tensors = [checkpoint.tensor_name(name) for name, own in kinds.items() if own == kind]
    more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
    return f"{kind} rounded to {bits_of(kind)} bit ({tensors[0]}{more})"


def _as_half(values: np.ndarray, weight: str) -> np.ndarray:
    """float16; BadCheckpoint if a value is beyond its range."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not (np.isfinite(half.min()) and np.isfinite(half.max())):
        raise BadCheckpoint(f"weight {weight} has a value beyond the range of float16", "", "take --precision int8")
    return half
