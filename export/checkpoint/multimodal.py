"""Models of images and text as the hub lays them out: their text part, read as if it stood alone.

Owns what of such a folder is not the text's: fields and tensors that are named here are not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgesink.errors import BadCheckpoint
from edgesink.export.checkpoint.config import HARMLESS, NEUTRAL, transformers_defaults
from edgesink.export.checkpoint.shards import Tensor
from edgesink.export.families.fields import Fields, short

TEXT_KINDS: Mapping[str, tuple[str, ...]] = {
    "gemma3": ("gemma3_text",),
    "mistral3": ("ministral3", "mistral"),
}
"""`model_type` of the whole -> those that its `text_config` may have; the first where it says none."""

FIELDS = {
    "boi_token_index", "eoi_token_index", "image_token_id", "image_token_index", "mm_tokens_per_image",
    "multimodal_projector_bias", "projector_hidden_act", "spatial_merge_size", "vision_config", "vision_feature_layer",
    "eos_token_id",  # read apart
}  # fmt: skip
"""What says how images are seen: a text changes with none of it."""

TENSORS = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
"""Beginnings of the names of tensors that see images."""

PREFIXES = {"language_model.model.": "model.", "language_model.lm_head.": "lm_head.", "model.language_model.": "model."}
"""Where the text part's tensors stand -> where they stand in a model of text alone."""


def text_config(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config.json of the text part alone, given that of the whole; BadCheckpoint for one that is not understood."""
    kind = values["model_type"]
    whole = Fields(values, where, transformers_defaults(kind))
    text = dict(whole.section("text_config"))
    if not text:
        raise whole.error("text_config", "the text part's fields")
    if text.setdefault("model_type", TEXT_KINDS[kind][0]) not in TEXT_KINDS[kind]:
        raise BadCheckpoint(
            f"{where} has text_config of type {short(text['model_type'])}", f"{' or '.join(TEXT_KINDS[kind])}"
        )
    tied = whole.flag("tie_word_embeddings")
    whole.text("model_type")
    whole.refuse_unread(NEUTRAL, HARMLESS | FIELDS)
    shared = {name: values[name] for name in ("_name_or_path", "eos_token_id") if values.get(name) is not None}
    return {**text, **shared, "tie_word_embeddings": tied}


def text_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the text part alone, by their names there."""
    return {_alone(key, PREFIXES): tensor for key, tensor in tensors.items() if not key.startswith(TENSORS)}


def _alone(key: str, prefixes: Mapping[str, str]) -> str:
    prefix: str = next(filter(key.startswith, prefixes), "")
    return prefixes.get(prefix, "") + key.removeprefix(prefix)
