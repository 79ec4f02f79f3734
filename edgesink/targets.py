"""What each target can do, and what it takes by default: one row a target.

Owns the words in which an export is asked for (target, precision, positions, how the state is written) and refuses
combinations that a target has not. Data only: imports no emitter, no runner and no tensor library. A new target is a
row here, a writer in `export.bundle`, a runner in `verify.runners` and a paragraph in `export.bundle_readme`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from edgesink.errors import BadOption

Target = Literal["onnx", "coreml", "coreai"]
Precision = Literal["fp32", "fp16", "int8", "int4", "pal4"]
Positions = Literal["cache", "original"]
KvWrite = Literal["slice", "blend", "host"]
StateDtype = Literal["float32", "float16"]

POSITIONS: tuple[Positions, ...] = get_args(Positions)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
KV_WRITES: tuple[KvWrite, ...] = get_args(KvWrite)

QUANTISED: tuple[Precision, ...] = ("int8", "int4", "pal4")
VOCABULARY_BITS = 8  # of the embedding and the head, which suffer most from 4

KERNELS_HOLD: tuple[Precision, ...] = ("int8", "int4")
KERNELS_WHOLE = {"head_dim": 16, "hidden": 32, "intermediate": 32}  # what the C kernels want sizes to be multiples of
KERNELS_MOST_HEAD_DIM = 1024
KERNELS_NORM = ("q_norm", "k_norm", "post_attention_norm", "post_mlp_norm")  # themselves, and RMSNorm only


@dataclass(frozen=True)
class TargetRow:
    """What one target can do, and its defaults."""

    chunk: int  # T, most tokens a run, where nothing else is asked for
    states: Mapping[Precision, StateDtype]  # precisions that it can hold -> what keys and values then are
    positions: tuple[Positions, ...] = ("cache",)  # how far a sink may seem
    row_multiple: int = 1  # rows of a state buffer are rounded up to it; those beyond the stream's are never seen
    kv_writes: tuple[KvWrite, ...] = ()  # ways in which new keys reach the state, the default first; (): no choice
    in_parts: bool = False  # the layers may be cut into several packages
    vocabulary_bits: Mapping[Precision, int] = field(default_factory=dict)  # where the default is not VOCABULARY_BITS
    rounds_activations: tuple[Precision, ...] = ()  # precisions in which products round their inputs to 8 bits
    extra: str = "export"  # of the Python package, which brings `packages`
    packages: tuple[str, ...] = ()  # beyond those of every export
    block_bits: int = 0  # beside the codes of 32 weights: scale, offset
    packs_odd_bits: bool = False  # codes of 5 and 6 bits take so many on disk, and not 8
    layer_bytes: int = 0  # about what the graph of one layer takes on disk, without its weights
    scratch_bits: Mapping[Precision, int] = field(default_factory=dict)  # a value, on disk until the bundle is whole


ROWS: Mapping[Target, TargetRow] = {
    "onnx": TargetRow(
        chunk=64,
        states=dict.fromkeys(("fp32", "fp16", "int8", "int4"), "float32"),
        positions=("cache", "original"),
        rounds_activations=("int8", "int4"),
        block_bits=28,  # between a scale alone and one with an offset
        packs_odd_bits=True,
        layer_bytes=8_000,
    ),
    "coreml": TargetRow(
        chunk=32,  # more has failed on the Neural Engine
        states=dict.fromkeys(("fp16", "int8", "int4", "pal4"), "float16"),
        row_multiple=32,
        kv_writes=("slice", "blend", "host"),
        in_parts=True,
        vocabulary_bits={"int4": 4},  # on a phone the vocabulary is a fifth of a small model
        packages=("coremltools",),
        block_bits=28,  # between whole zero points and fractional ones
        layer_bytes=52_000,
        scratch_bits={"fp16": 16, "int8": 8, "int4": 8, "pal4": 8},  # a byte a code until the package is saved
    ),
    "coreai": TargetRow(
        chunk=32,
        states={"fp32": "float32", "fp16": "float16"},
        extra="coreai",
        packages=("coreai_torch",),
        layer_bytes=40_000,
    ),
}
TARGETS: tuple[Target, ...] = tuple(ROWS)


def default_vocabulary_bits(target: Target, precision: Precision) -> int:
    """Bits of the embedding and the head where nothing else is asked for."""
    return ROWS[target].vocabulary_bits.get(precision, VOCABULARY_BITS)


def default_kv_write(target: Target) -> KvWrite | None:
    """How new keys and values reach the state; None where the target has one way only."""
    return next(iter(ROWS[target].kv_writes), None)


def check_target(target: Target) -> None:
    """BadOption if there is no such target."""
    if target not in ROWS:
        raise BadOption(f"--target {target}", _one_of(TARGETS))


def check_supported(
    target: Target,
    precision: Precision,
    positions: Positions,
    kv_write: KvWrite | None,
    vocabulary_bits: int,
    parts: int,
) -> None:
    """BadOption, in the words of the command line, for the first thing asked for that the target cannot do."""
    check_target(target)
    row = ROWS[target]
    if precision not in row.states:
        raise BadOption(f"--precision {precision} for target {target}", _one_of(tuple(row.states)))
    if positions not in row.positions:
        raise BadOption(
            f"--positions {positions} for target {target}",
            f"{_one_of(row.positions)}: a sink's distance that grows cannot be bounded",
            "take --target onnx to compare the two",
        )
    if kv_write is not None and not row.kv_writes:
        raise BadOption(f"--kv-write for target {target}", _targets_with("kv_writes"), "leave it out")
    if row.kv_writes and kv_write not in row.kv_writes:
        raise BadOption(f"--kv-write {kv_write}", _one_of(row.kv_writes))
    if vocabulary_bits not in (4, 8):
        raise BadOption(f"--vocabulary-bits {vocabulary_bits}", "4 or 8")
    if vocabulary_bits != VOCABULARY_BITS and precision not in QUANTISED:
        raise BadOption(
            f"--vocabulary-bits {vocabulary_bits} for precision {precision}", _one_of(QUANTISED), "leave it out"
        )
    if parts != 1 and not row.in_parts:
        raise BadOption(f"--parts {parts} for target {target}", _targets_with("in_parts"), "leave it out")


def lacks(target: Target, precision: Precision, architecture: Mapping[str, Any]) -> list[str]:
    """What keeps a bundle from having all that its target offers, in plain words: one line a reason, [] for none.

    On ONNX that is the graph for the C kernels; without it ONNX Runtime's own operators run the bundle. `architecture`
    is `ModelSpec.as_data()`, which a manifest carries; of a size that is not in it nothing is said.
    """
    if target != "onnx":
        return []
    found = [] if precision in KERNELS_HOLD else [f"{precision} is not {_one_of(KERNELS_HOLD)}"]
    sizes = {name: size for name in KERNELS_WHOLE if isinstance(size := architecture.get(name), int)}
    for name, size in sizes.items():
        if size % KERNELS_WHOLE[name]:
            found.append(f"{name} {size} is not a multiple of {KERNELS_WHOLE[name]}")
    if sizes.get("head_dim", 0) > KERNELS_MOST_HEAD_DIM:
        found.append(f"head_dim {sizes['head_dim']} is more than {KERNELS_MOST_HEAD_DIM}")
    if architecture.get("off_by_one"):
        found.append("its softmax is off by one")
    norms = [norm for norm in KERNELS_NORM if norm in architecture.get("weights", ())]
    if architecture.get("norm_kind") == "layer" and norms:
        found.append(f"{norms[0]} is a LayerNorm")
    if architecture.get("score_cap"):
        found.append("scores have a soft cap")
    views = architecture.get("views")
    if isinstance(views, list) and any(isinstance(view, dict) and view.get("slopes") for view in views):
        found.append("scores lose what their distance costs (ALiBi)")
    return found


def _one_of(words: Sequence[str]) -> str:
    """The words as a sentence has them: "fp32, fp16 or int8"."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _targets_with(ability: str) -> str:
    return "target " + _one_of([name for name, row in ROWS.items() if getattr(row, ability)])
