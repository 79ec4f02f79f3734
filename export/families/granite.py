"""Granite, the dense ones: the decoder of Llama with four multipliers, all folded into weights and numbers.

Before: x = m_e embedding; x += m_r block(x); logits = head(norm(x)) / m_l. The residual stream is held divided by m_r,
so that blocks are added as they are, and the last norm's weight is divided by m_l.
"""

from __future__ import annotations

from dataclasses import replace

from edgesink.export.families.decoder import decoder_of_config, decoder_of_gguf
from edgesink.export.families.fields import Fields
from edgesink.export.families.layers import alike
from edgesink.export.families.spelling import hub_source, interleaved_gguf_source
from edgesink.export.families.weights_of import Source, Tensors
from edgesink.spec import ModelSpec


def of_config(config: Fields, name: str) -> ModelSpec:
    """The multipliers are 1 where config.json is silent, that of attention too."""
    model = alike(config, decoder_of_config(config, name), None)
    embedding, residual = config.number("embedding_multiplier"), config.number("residual_multiplier")
    return folded(model, embedding, residual, config.number("attention_multiplier"), config.number("logits_scaling"))


def of_gguf(fields: Fields, name: str, tensors: Tensors) -> ModelSpec:
    """Rows of q and k are interleaved as Llama's."""
    model = decoder_of_gguf(fields, name, tensors, "granite")
    embedding, residual = fields.number("embedding_scale", 1.0), fields.number("residual_scale", 1.0)
    return folded(
        model, embedding, residual, fields.number("attention.scale", model.scale), fields.number("logit_scale", 1.0)
    )


def folded(model: ModelSpec, embedding: float, residual: float, attention: float, logits: float) -> ModelSpec:
    """The decoder with the multipliers where they are folded in."""
    return replace(
        model, embedding_scale=embedding / residual, stream_scale=residual, scale=attention, logits_scale=1 / logits
    )


def hub(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a folder."""
    return with_logits_scale(hub_source(weight, model), weight, model)


def gguf(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a GGUF."""
    return with_logits_scale(interleaved_gguf_source(weight, model), weight, model)


def with_logits_scale(source: Source, weight: str, model: ModelSpec) -> Source:
    """The last norm takes the scale of the logits along."""
    return replace(source, times=model.logits_scale) if weight == "norm" else source
