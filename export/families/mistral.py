"""Mistral: the decoder of Llama; the first releases see a sliding window only."""

from __future__ import annotations

from edgesink.export.families.fields import Fields


def sliding_window(config: Fields) -> int | None:
    """Tokens that a layer looks back; 4096 where config.json is silent, as transformers fills in, and null is all."""
    window = None if config.get("sliding_window") is None else config.count("sliding_window")
    if window is not None and config.get("layer_types") is not None:
        raise config.error("layer_types", f"null beside sliding_window = {window}")
    return window
