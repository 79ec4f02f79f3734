"""Layers that look back differently: the kinds that a config names, and the views that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgesink.export.families.fields import Fields
from edgesink.spec import ModelSpec, View

FULL, SLIDING = "full_attention", "sliding_attention"


def kinds_of_layers(config: Fields, default: Sequence[str]) -> Sequence[str]:
    """FULL or SLIDING for each layer: `layer_types`, or `default`, as long, where it is null or absent."""
    kinds = config.get("layer_types")
    if kinds is None:
        return default
    if not isinstance(kinds, list) or len(kinds) != len(default) or not {*map(str, kinds)} <= {FULL, SLIDING}:
        raise config.error("layer_types", f"{FULL!r} or {SLIDING!r} for each of {len(default)} layers")
    return kinds


def sliding_but_every(pattern: int, layers: int) -> list[str]:
    """The kind of each layer where the last of so many sees everything."""
    return [SLIDING if (layer + 1) % pattern else FULL for layer in range(layers)]


def alike(config: Fields, model: ModelSpec, window: int | None) -> ModelSpec:
    """Every layer with the same window of its own, or none; `layer_types` must say so too, if anything."""
    kind = FULL if window is None else SLIDING
    if {*kinds_of_layers(config, [kind] * model.layers)} != {kind}:
        raise config.error("layer_types", f"{kind!r} for each of {model.layers} layers, all of which are alike")
    return with_layers(model, [View(view.rotary, window) for view in model.views] * model.layers)


def windowed(config: Fields, model: ModelSpec) -> ModelSpec:
    """Layers of Qwen: a window, if it is used at all, from `max_window_layers` on, or where `layer_types` says so."""
    window = config.count_or_none("sliding_window") if config.flag("use_sliding_window") else None
    first = config.get("max_window_layers")
    if type(first) is not int or first < 0:
        raise config.error("max_window_layers", "a number of layers")
    default = [FULL if window is None or layer < first else SLIDING for layer in range(model.layers)]
    kinds = kinds_of_layers(config, default)
    if window is None and SLIDING in kinds:
        raise config.error("layer_types", f"{FULL!r} for each layer, as no sliding window is used")
    rotary = model.views[0].rotary
    return with_layers(model, [View(rotary, window if kind == SLIDING else None) for kind in kinds])


def with_layers(model: ModelSpec, layers: Sequence[View]) -> ModelSpec:
    """The decoder with a view for each layer."""
    views = tuple(dict.fromkeys(layers))
    return replace(model, views=views, view_of=tuple(views.index(view) for view in layers))
