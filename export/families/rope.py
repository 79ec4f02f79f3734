"""Rotary positions as a config.json or a GGUF says them, read as transformers and llama.cpp read them.

transformers 5 writes `rope_parameters`; before, `rope_theta` stood beside `rope_scaling`. Where both are there they
must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgesink.export.families.fields import Fields, same
from edgesink.export.families.frequencies import (
    Llama3Scaling,
    YarnScaling,
    held,
    llama3,
    plain,
    yarn,
    yarn_amplitude,
)
from edgesink.export.families.weights_of import Tensors
from edgesink.spec import Rotary

HEAD_SIZE = "attention.key_length, or else embedding_length / attention.head_count"

Turning = tuple[np.ndarray, float]
"""Frequencies, float64 [dimensions / 2], and the amplitude of their cosine and sine."""


def rotary_of_config(config: Fields, context: int, head_dim: int) -> Rotary:
    """Whole heads turn; `context` counts where a scaling does not say the length it was trained at."""
    rope = rope_fields(config)
    return rotary_of(rope, config.number("rope_theta"), context, head_dim)


def rope_fields(config: Fields, theta: str = "rope_theta") -> Fields:
    """The values that say how to turn, wherever they stand; `theta` is the field that may stand beside them."""
    old, new = (_spelled(config, name) for name in ("rope_scaling", "rope_parameters"))
    if old and new:
        _check_agreement(config, old, new, theta)
    rope = config.nested("rope_scaling" if old else "rope_parameters", old or new)
    _check_theta(config, rope, theta)
    return rope


def turning_dimensions(
    config: Fields, rope: Fields, head_dim: int, field: str = "partial_rotary_factor", default: float = 1.0
) -> int:
    """How many dimensions of a head turn, the first ones: a share, in `field` or among the values of `rope`."""
    outer = config.number(field, default)
    inner = rope.number("partial_rotary_factor", outer)
    dimensions = int(head_dim * inner)
    if not 2 <= dimensions <= head_dim or dimensions % 2 or (config.says(field) and inner != outer):
        expected = f"one share, an even number of a head's {head_dim} dimensions (of num_attention_heads or head_dim)"
        said_there = rope.says("partial_rotary_factor") and not config.says(field)
        raise rope.error("partial_rotary_factor", expected) if said_there else config.error(field, expected)
    return dimensions


def rotaries_of_kinds(config: Fields, thetas: Mapping[str, str], context: int, head_dim: int) -> dict[str, Rotary]:
    """A rotary embedding for each kind of layer, as `rope_parameters` nests them.

    thetas: kind -> the field that had its theta before there was nesting; `rope_scaling` was of the first kind alone.
    """
    nested = config.nested("rope_parameters", config.section("rope_parameters"))
    scaling = config.section("rope_scaling")
    rotaries: dict[str, Rotary] = {}
    for kind, theta in thetas.items():
        values = nested.section(kind)
        rope = nested.nested(kind, _one_spelling(config, kind, {**values, **scaling} if not rotaries else values))
        _check_theta(config, rope, theta)
        rotaries[kind] = rotary_of(rope, config.number(theta), context, head_dim)
    nested.refuse_unread({})
    return rotaries


def rotary_of(rope: Fields, theta: float, context: int, head_dim: int, dimensions: int | None = None) -> Rotary:
    """What the values in `rope` say; `theta` counts where they are silent of it. All of them are read.

    dimensions: of a head, that turn; None: all.
    """
    frequencies, amplitude = turning(rope, rope.number("rope_theta", theta), context, dimensions or head_dim)
    rope.refuse_unread({"partial_rotary_factor": 1.0, "factor": 1.0, "attention_factor": 1.0})
    return Rotary(held(frequencies, head_dim // 2), amplitude)


def turning(rope: Fields, theta: float, context: int, dimensions: int) -> Turning:
    """How the first `dimensions` of a head turn."""
    kind = rope.text("rope_type", "default")
    if kind not in _KINDS:
        expected = " or ".join(map(repr, _KINDS))
        meaning = "its frequencies change with the length of the text" if kind == "dynamic" else ""
        raise rope.error("rope_type", expected, meaning or f"RoPE of type {kind!r}", "choose another model")
    return _KINDS[kind](rope, theta, context, dimensions)


def _default(rope: Fields, theta: float, context: int, dimensions: int) -> Turning:
    return plain(theta, dimensions), 1.0


def _linear(rope: Fields, theta: float, context: int, dimensions: int) -> Turning:
    return plain(theta, dimensions) / rope.number("factor"), 1.0


def _llama3(rope: Fields, theta: float, context: int, dimensions: int) -> Turning:
    scaling = Llama3Scaling(
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_context=rope.count("original_max_position_embeddings", context),
    )
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        raise rope.error("high_freq_factor", f"more than low_freq_factor = {scaling.low_freq_factor:g}")
    return llama3(plain(theta, dimensions), scaling), 1.0


def _yarn(rope: Fields, theta: float, context: int, dimensions: int) -> Turning:
    scaling = YarnScaling(
        factor=rope.number("factor"),
        original_context=rope.count("original_max_position_embeddings", context),
        beta_fast=rope.number("beta_fast", YarnScaling.beta_fast),
        beta_slow=rope.number("beta_slow", YarnScaling.beta_slow),
        truncate=rope.flag("truncate", True),
    )
    amplitude = yarn_amplitude(scaling.factor)
    if rope.says("mscale") and rope.says("mscale_all_dim"):
        of_cosine, of_all = rope.number("mscale"), rope.number("mscale_all_dim")
        amplitude = yarn_amplitude(scaling.factor, of_cosine) / yarn_amplitude(scaling.factor, of_all)
    return yarn(theta, dimensions, scaling), rope.number("attention_factor", amplitude)


_KINDS: Mapping[str, Callable[[Fields, float, int, int], Turning]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}


def partial_rotary_of_gguf(fields: Fields, tensors: Tensors, head_dim: int) -> Rotary:
    """The first dimensions of a head turn."""
    dimensions = fields.count("rope.dimension_count", head_dim, most=head_dim)
    if dimensions % 2:
        raise fields.error("rope.dimension_count", "an even number")
    frequencies, amplitude = turning_of_gguf(fields, dimensions)
    return Rotary(held(frequencies, head_dim // 2), amplitude)


def rotary_of_gguf(fields: Fields, tensors: Tensors, head_dim: int) -> Rotary:
    """Whole heads turn; a tensor may hold a divisor of each pair's frequency, as Llama 3.1's."""
    if fields.count("rope.dimension_count", head_dim) != head_dim:
        raise fields.error("rope.dimension_count", f"{head_dim}, the size of a head: {HEAD_SIZE}")
    frequencies, amplitude = turning_of_gguf(fields, head_dim)
    divisors = tensors.vector("rope_freqs.weight", head_dim // 2)
    return Rotary(held(frequencies if divisors is None else frequencies / divisors, head_dim // 2), amplitude)


def turning_of_gguf(fields: Fields, dimensions: int) -> Turning:
    """How the first `dimensions` of a head turn. A factor without a type is linear, as llama.cpp has it."""
    theta = fields.number("rope.freq_base", 10000.0)
    kind = fields.one_of("rope.scaling.type", ("none", "linear", "yarn"), "linear")
    if kind == "none":
        return plain(theta, dimensions), 1.0
    factor = fields.number("rope.scaling.factor", 1.0)
    if kind == "linear":
        return plain(theta, dimensions) / factor, 1.0
    context = fields.count("rope.scaling.original_context_length", fields.count("context_length"))
    return yarn(theta, dimensions, YarnScaling(factor, context)), yarn_amplitude(factor)


def _spelled(config: Fields, name: str) -> dict[str, Any]:
    """The values under `name`, the old spelling "type" made "rope_type"."""
    return _one_spelling(config, name, config.section(name))


def _one_spelling(config: Fields, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(values)
    kind = values.pop("type", None)
    if kind is not None and values.setdefault("rope_type", kind) != kind:
        raise config.error(name, "one rope_type")
    return values


def _check_theta(config: Fields, rope: Fields, theta: str) -> None:
    """The field of the config, where there is one beside that of the RoPE parameters, says the same."""
    if config.says(theta) and rope.says("rope_theta"):
        inner = rope.number("rope_theta")
        if inner != config.number(theta):
            raise config.error(theta, f"{inner:g}, as the RoPE parameters say")


def _check_agreement(config: Fields, old: Mapping[str, Any], new: Mapping[str, Any], theta: str) -> None:
    """transformers takes the old place alone, with the theta beside it; theta may be missing from one of the two."""
    beside = config.get(theta)
    for name in sorted(old.keys() | new.keys()):
        spare = beside if name == "rope_theta" else None
        if not same(old.get(name, spare), new.get(name, spare)):
            raise config.error("rope_scaling", f"the same {name} as in rope_parameters")
