"""Model families: each reads an architecture from a file's header and says where each weight comes from.

One module a family. A family computes nothing: the decoder is written once, in `graph`. What a family does not read
is refused (`Fields.refuse_unread`), and so is a tensor that none of its sources names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgesink.export.families import (
    falcon,
    gemma2,
    gemma3,
    gpt_neox,
    granite,
    llama,
    ministral3,
    mistral,
    mpt,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    seed_oss,
    smollm3,
    stablelm,
)
from edgesink.export.families.fields import Fields
from edgesink.export.families.spelling import gguf_source, hub_source, interleaved_gguf_source
from edgesink.export.families.weights_of import Source, Tensors
from edgesink.spec import ModelSpec

Sources = Callable[[str, ModelSpec], Source]
"""Where a weight of the decoder is."""


@dataclass(frozen=True)
class HubFamily:
    """A family in the hub's layout: config.json and safetensors."""

    read: Callable[[Fields, str], ModelSpec]
    """(config.json, the model's name) -> the decoder."""
    source: Sources = hub_source
    """Keys as transformers' causal model spells them."""
    derived: Callable[[str, ModelSpec], np.ndarray | None] = lambda key, model: None
    """The values of a tensor that some files carry though they follow from the config; None for any other tensor."""


@dataclass(frozen=True)
class GgufFamily:
    """A family in llama.cpp's layout."""

    read: Callable[[Fields, str, Tensors], ModelSpec]
    """(the fields of its architecture, the model's name, the file's tensors) -> the decoder."""
    source: Sources = gguf_source


HUB_FAMILIES: Mapping[str, HubFamily] = {
    "falcon": HubFamily(falcon.of_config, falcon.hub),
    "gemma2": HubFamily(gemma2.of_config, gemma3.hub),
    "gemma3_text": HubFamily(gemma3.of_config, gemma3.hub),
    "gpt_neox": HubFamily(gpt_neox.of_config, gpt_neox.hub, gpt_neox.hub_derived),
    "granite": HubFamily(granite.of_config, granite.hub),
    "llama": HubFamily(llama.of_config, derived=llama.hub_derived),
    "ministral3": HubFamily(ministral3.of_config),
    "mistral": HubFamily(mistral.of_config, derived=llama.hub_derived),
    "mpt": HubFamily(mpt.of_config, mpt.hub),
    "olmo2": HubFamily(olmo2.of_config, olmo2.hub),
    "olmo3": HubFamily(olmo2.third_of_config, olmo2.hub),
    "phi3": HubFamily(phi3.of_config, phi3.hub),
    "qwen2": HubFamily(qwen2.of_config),
    "qwen3": HubFamily(qwen3.of_config),
    "seed_oss": HubFamily(seed_oss.of_config),
    "smollm3": HubFamily(smollm3.of_config),
    "stablelm": HubFamily(stablelm.of_config, stablelm.hub),
}
"""By `model_type` of config.json."""

GGUF_FAMILIES: Mapping[str, GgufFamily] = {
    "falcon": GgufFamily(falcon.of_gguf, falcon.gguf),
    "gemma2": GgufFamily(gemma2.of_gguf, gemma3.gguf),
    "gemma3": GgufFamily(gemma3.of_gguf, gemma3.gguf),
    "granite": GgufFamily(granite.of_gguf, granite.gguf),
    "gptneox": GgufFamily(gpt_neox.of_gguf, gpt_neox.gguf),
    "llama": GgufFamily(llama.of_gguf, interleaved_gguf_source),
    "olmo2": GgufFamily(olmo2.of_gguf),
    "phi3": GgufFamily(phi3.of_gguf, phi3.gguf),
    "qwen2": GgufFamily(qwen2.of_gguf),
    "qwen3": GgufFamily(qwen3.of_gguf),
    "smollm3": GgufFamily(smollm3.of_gguf, interleaved_gguf_source),
    "stablelm": GgufFamily(stablelm.of_gguf, stablelm.gguf),
}
"""By `general.architecture`; llama.cpp calls Mistral "llama" too."""
