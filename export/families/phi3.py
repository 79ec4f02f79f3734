"""Phi 3 and 4: q, k and v are one matrix, gate and up another; heads may turn in part, by LongRoPE's short factors.

Positions stay within the original context, where the short factors hold: a larger capacity is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgesink.export.families.decoder import decoder_of_config, decoder_of_gguf
from edgesink.export.families.fields import Fields
from edgesink.export.families.frequencies import held, longrope_amplitude, plain
from edgesink.export.families.fused import from_fused, side_by_side
from edgesink.export.families.layers import alike, with_layers
from edgesink.export.families.own_code import check_own_code
from edgesink.export.families.rope import rope_fields, turning_dimensions
from edgesink.export.families.spelling import GGUF, HUB, gguf_source, hub_source
from edgesink.export.families.weights_of import Source, Tensors
from edgesink.spec import ModelSpec, Rotary, View

GATE_UP = "mlp.gate_up_proj.weight"
LONGROPE = ("longrope", "su", "yarn")  # names of one kind: transformers' Phi knows no YaRN
OWN_CODE: Mapping[str, str] = {
    "AutoConfig": "configuration_phi3.Phi3Config",
    "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
}
IN_HUB = {**HUB, **dict.fromkeys("qkv", "self_attn.qkv_proj.weight"), "gate": GATE_UP, "up": GATE_UP}
IN_GGUF = {**GGUF, **dict.fromkeys("qkv", "attn_qkv.weight"), "gate": "ffn_up.weight"}


def of_config(config: Fields, name: str) -> ModelSpec:
    """The code that the hub's folders bring along is of the same decoder."""
    check_own_code(config, OWN_CODE)
    rope = rope_fields(config)
    original = config.count("original_max_position_embeddings")
    if rope.count("original_max_position_embeddings", original) != original:
        raise rope.error("original_max_position_embeddings", f"{original}, as {config.where} has")
    is_long = rope.one_of("rope_type", ("default", *LONGROPE), "default") in LONGROPE

    def rotary_of(config: Fields, context: int, head_dim: int) -> Rotary:
        dimensions = turning_dimensions(config, rope, head_dim)
        frequencies, amplitude = plain(rope.number("rope_theta", config.number("rope_theta")), dimensions), 1.0
        if is_long:
            frequencies /= rope.numbers("short_factor", dimensions // 2)
            rope.numbers("long_factor", dimensions // 2)
            amplitude = longrope_amplitude(rope.number("factor", context / original), original)
            amplitude = rope.number("attention_factor", amplitude)
        rope.refuse_unread({})
        return Rotary(held(frequencies, head_dim // 2), amplitude)

    model = alike(config, decoder_of_config(config, name, rotary_of=rotary_of), config.count_or_none("sliding_window"))
    return replace(model, static_context=original if is_long else None)


def of_gguf(fields: Fields, name: str, tensors: Tensors) -> ModelSpec:
    """The short factors are a tensor; the type of the scaling is not always told."""
    original = fields.count("rope.scaling.original_context_length", fields.count("context_length"))
    fields.one_of("rope.scaling.type", ("none", "longrope"), "longrope")
    is_long = "rope_factors_short.weight" in tensors.shapes

    def rotary_of(fields: Fields, tensors: Tensors, head_dim: int) -> Rotary:
        dimensions = fields.count("rope.dimension_count", head_dim, most=head_dim)
        frequencies = plain(fields.number("rope.freq_base", 10000.0), dimensions)
        short = tensors.vector("rope_factors_short.weight", dimensions // 2)
        tensors.vector("rope_factors_long.weight", dimensions // 2)
        amplitude = fields.number("rope.scaling.attn_factor", 1.0)
        return Rotary(held(frequencies if short is None else frequencies / short, head_dim // 2), amplitude)

    model = decoder_of_gguf(fields, name, tensors, "phi3", rotary_of)
    window = fields.get("attention.sliding_window") or None
    window = window and fields.count("attention.sliding_window")
    model = with_layers(model, [View(model.views[0].rotary, window)] * model.layers)
    return replace(model, static_context=original if is_long else None)


def hub(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a folder."""
    return with_rows(hub_source(weight, model, IN_HUB), weight, model)


def gguf(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a GGUF."""
    return with_rows(gguf_source(weight, model, IN_GGUF), weight, model)


def with_rows(source: Source, weight: str, model: ModelSpec) -> Source:
    """The rows of a fused matrix that are the weight: of the gate's and up's, the gate's stand first."""
    name = weight.rpartition(".")[2]
    if name not in ("gate", "up"):
        return from_fused(source, weight, model, side_by_side)
    rows = np.arange(model.intermediate) + (model.intermediate if name == "up" else 0)
    return replace(source, shape=(2 * model.intermediate, model.hidden), rows=rows)
