"""Rotary positions as a config.json says them: two places and two spellings, read as transformers reads them.

transformers 5 writes `rope_parameters`; before, `rope_theta` stood beside `rope_scaling`. Where both are there they
must agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgesink.export.families.fields import Fields, same
from edgesink.export.families.frequencies import Llama3Scaling, held, llama3, plain
from edgesink.spec import Rotary


def rope_of_config(config: Fields, context: int, head_dim: int) -> Rotary:
    """The frequencies; `context` counts where Llama 3's scaling does not say the length it was trained at."""
    old, new = (_spelled(config, name) for name in ("rope_scaling", "rope_parameters"))
    if old and new:
        _check_agreement(config, old, new)
    rope = config.nested("rope_scaling" if old else "rope_parameters", old or new)
    kind = rope.text("rope_type", "default")
    theta = rope.number("rope_theta", config.number("rope_theta"))
    if config.says("rope_theta") and config.number("rope_theta") != theta:
        raise config.error("rope_theta", f"{theta:g}, as the RoPE parameters say")
    if kind == "default":
        rope.refuse_unread({"partial_rotary_factor": 1.0, "factor": 1.0, "attention_factor": 1.0})
        return Rotary(held(plain(theta, head_dim), head_dim // 2))
    if kind != "llama3":
        raise rope.error("rope_type", "'default' or 'llama3'", f"RoPE of type {kind!r}", "choose another model")
    scaling = Llama3Scaling(
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_context=rope.count("original_max_position_embeddings", context),
    )
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        raise rope.error("high_freq_factor", f"more than low_freq_factor = {scaling.low_freq_factor:g}")
    rope.refuse_unread({"partial_rotary_factor": 1.0})
    return Rotary(held(llama3(plain(theta, head_dim), scaling), head_dim // 2))


def _spelled(config: Fields, name: str) -> dict[str, Any]:
    """The values under `name`, the old spelling "type" made "rope_type"."""
    values = dict(config.section(name))
    kind = values.pop("type", None)
    if kind is not None and values.setdefault("rope_type", kind) != kind:
        raise config.error(name, "one rope_type")
    return values


def _check_agreement(config: Fields, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """transformers takes the old place alone, with the theta beside it; theta may be missing from one of the two."""
    theta = config.get("rope_theta")
    for name in sorted(old.keys() | new.keys()):
        spare = theta if name == "rope_theta" else None
        if not same(old.get(name, spare), new.get(name, spare)):
            raise config.error("rope_scaling", f"the same {name} as in rope_parameters")
