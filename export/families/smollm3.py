"""SmolLM3: the decoder of Llama, some of whose layers know no positions."""

from __future__ import annotations

from collections.abc import Sequence

from edgesink.export.families.decoder import decoder_of_config, decoder_of_gguf
from edgesink.export.families.fields import Fields
from edgesink.export.families.layers import FULL, SLIDING, kinds_of_layers, with_layers
from edgesink.export.families.weights_of import Tensors
from edgesink.spec import ModelSpec, Rotary, View

GGUF_INTERVAL = 4  # llama.cpp has it in its code, not in the file


def of_config(config: Fields, name: str) -> ModelSpec:
    """A window, if it is used at all, is that of the layers without positions, or of those in `layer_types`."""
    model = decoder_of_config(config, name)
    interval = config.count("no_rope_layer_interval")
    turns = config.get("no_rope_layers")
    if turns is None:
        turns = every(interval, model.layers)
    if not isinstance(turns, list) or len(turns) < model.layers or not {*map(repr, turns)} <= {"0", "1"}:
        raise config.error("no_rope_layers", f"1 (with positions) or 0 (without) for each of {model.layers} layers")
    window = config.count_or_none("sliding_window") if config.flag("use_sliding_window") else None
    kinds = kinds_of_layers(config, [FULL if window is None or turn else SLIDING for turn in turns[: model.layers]])
    if window is None and SLIDING in kinds:
        raise config.error("layer_types", f"{FULL!r} for each layer, as no sliding window is used")
    return turning_in(model, turns, [window if kind == SLIDING else None for kind in kinds])


def of_gguf(fields: Fields, name: str, tensors: Tensors) -> ModelSpec:
    """Rows of q and k are interleaved as Llama's."""
    model = decoder_of_gguf(fields, name, tensors, "smollm3")
    return turning_in(model, every(GGUF_INTERVAL, model.layers), [None] * model.layers)


def every(interval: int, layers: int) -> list[int]:
    """0 for each layer at the end of an interval, else 1."""
    return [int((layer + 1) % interval != 0) for layer in range(layers)]


def turning_in(model: ModelSpec, turns: Sequence[int], windows: Sequence[int | None]) -> ModelSpec:
    """The decoder whose layers turn where `turns` is 1: elsewhere every frequency is 0."""
    still = Rotary((0.0,) * (model.head_dim // 2))
    rotary = model.views[0].rotary
    return with_layers(model, [View(rotary if turn else still, w) for turn, w in zip(turns, windows, strict=False)])
