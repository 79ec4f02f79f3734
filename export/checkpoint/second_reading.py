"""A second reading of a config.json's sizes: by optimum, which has its own table of how each family spells them.

Two readers that share no code must agree. Where optimum does not know a family, ours stands alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from edgesink.errors import BadCheckpoint
from edgesink.spec import ModelSpec


def check_sizes(config: Mapping[str, Any], model: ModelSpec, where: str) -> None:
    """BadCheckpoint if optimum reads another size from `config`, defaults filled in, than `model` has."""
    from optimum.utils import NormalizedConfigManager

    try:
        reader = NormalizedConfigManager.get_normalized_config_class(model.architecture)
    except KeyError:
        return
    second = reader(SimpleNamespace(**config))
    sizes = {
        "num_layers": model.layers,
        "hidden_size": model.hidden,
        "num_attention_heads": model.heads,
        "vocab_size": model.vocab,
    }
    for name, ours in sizes.items():
        theirs = getattr(second, name)
        if theirs != ours:
            raise BadCheckpoint(f"{where} has {name} {ours} as we read it and {theirs} as optimum does", "one value")
