"""OLMo 2 and 3: norms behind attention and MLP and none before, queries and keys normed over all their heads at once.

OLMo 3 has layers with a window, and RoPE parameters for each kind of layer.
"""

from __future__ import annotations

from edgesink.export.families.decoder import decoder_of_config, decoder_of_gguf
from edgesink.export.families.fields import Fields
from edgesink.export.families.layers import (
    FULL,
    SLIDING,
    alike,
    kinds_of_layers,
    sliding_but_every,
    with_layers,
)
from edgesink.export.families.rope import rotaries_of_kinds
from edgesink.export.families.spelling import HUB_POST_NORMS, hub_source
from edgesink.export.families.weights_of import POST_NORMS, WHOLE_NORMS, Source, Tensors, with_weights, without_weights
from edgesink.spec import ModelSpec, Rotary, View

PATTERN = 4  # of OLMo 3: the last of so many layers sees everything
THETA = 500000.0  # of OLMo 3
THETAS = {FULL: "rope_theta", SLIDING: "rope_theta"}


def of_config(config: Fields, name: str) -> ModelSpec:
    """OLMo 2 sees everything in every layer."""
    return alike(config, normed_behind(decoder_of_config(config, name)), None)


def third_of_config(config: Fields, name: str) -> ModelSpec:
    """OLMo 3: layers by `layer_types`, or every fourth sees all.

    A `rope_theta` beside `rope_parameters` is of which layers? Releases of transformers do not agree.
    """
    if config.says("rope_theta") and config.number("rope_theta") != THETA:
        raise config.error("rope_theta", f"{THETA:g}, or one for each kind of layer in rope_parameters")
    model = decoder_of_config(config, name, rotary_of=lambda _, context, head_dim: Rotary((0.0,) * (head_dim // 2)))
    rotaries = rotaries_of_kinds(config, THETAS, model.context, model.head_dim)
    window = config.count_or_none("sliding_window")
    kinds = kinds_of_layers(config, sliding_but_every(PATTERN, model.layers))
    if window is None and SLIDING in kinds:
        raise config.error("sliding_window", f"a number of tokens, as layers are {SLIDING!r}")
    views = {FULL: View(rotaries[FULL]), SLIDING: View(rotaries[SLIDING], window)}
    return with_layers(normed_behind(model), [views[kind] for kind in kinds])


def of_gguf(fields: Fields, name: str, tensors: Tensors) -> ModelSpec:
    """Rows of q and k as transformers has them. OLMo 3 has the same name, and a window, which is refused."""
    return normed_behind(decoder_of_gguf(fields, name, tensors, "olmo2"))


def normed_behind(model: ModelSpec) -> ModelSpec:
    """The decoder with OLMo's norms in place of Llama's."""
    return without_weights(with_weights(model, *WHOLE_NORMS, *POST_NORMS), "attention_norm", "mlp_norm")


def hub(weight: str, model: ModelSpec) -> Source:
    """Where a weight is in a folder."""
    return hub_source(weight, model, HUB_POST_NORMS)
