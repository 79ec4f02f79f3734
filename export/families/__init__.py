"""Model families: each reads an architecture from a file's header and says where each weight comes from.

One module a family. A family computes nothing: the decoder is written once, in `graph`. What a family does not read
is refused (`Fields.refuse_unread`), and so is a tensor that none of its sources names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgesink.export.families import llama, mistral
from edgesink.export.families.fields import Fields
from edgesink.export.families.weights_of import Shapes, Source
from edgesink.spec import ModelSpec


@dataclass(frozen=True)
class HubFamily:
    """A family in the hub's layout: config.json and safetensors."""

    read: Callable[[Fields, str], ModelSpec]
    """(config.json, the model's name) -> the decoder."""
    sliding_window: Callable[[Fields], int | None]
    """Tokens that every layer looks back, the current one included, as the model was trained; None is all."""
    source: Callable[[str, ModelSpec], Source]
    """Weight -> where it is; keys as transformers' causal model spells them."""
    derived: Callable[[str, ModelSpec], np.ndarray | None]
    """The values of a tensor that some files carry though they follow from the config; None for any other tensor."""


@dataclass(frozen=True)
class GgufFamily:
    """A family in llama.cpp's layout."""

    read: Callable[[Fields, str, Shapes], ModelSpec]
    """(the fields of its architecture, the model's name, the file's tensors) -> the decoder."""
    source: Callable[[str, ModelSpec], Source]
    """Weight -> where it is."""


HUB_FAMILIES: Mapping[str, HubFamily] = {
    "llama": HubFamily(llama.of_config, llama.sliding_window, llama.hub_source, llama.hub_derived),
    "mistral": HubFamily(llama.of_config, mistral.sliding_window, llama.hub_source, llama.hub_derived),
}
"""By `model_type` of config.json."""

GGUF_FAMILIES: Mapping[str, GgufFamily] = {"llama": GgufFamily(llama.of_gguf, llama.gguf_source)}
"""By `general.architecture`; llama.cpp calls Mistral "llama" too."""
