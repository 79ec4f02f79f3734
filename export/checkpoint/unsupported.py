"""What a model or a file is that cannot be exported, and the way out where there is one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from edgesink.errors import BadCheckpoint
from edgesink.export.families.fields import short

NOT_DECODERS: Mapping[str, str] = {  # after a semicolon the way out
    "clip": "the vision part of a model of images (mmproj); name the file of its language model",
    "mixtral": "a mixture of experts",
    "qwen2_moe": "a mixture of experts",
    "qwen2moe": "a mixture of experts",
    "qwen3_moe": "a mixture of experts",
    "qwen3moe": "a mixture of experts",
    "deepseek2": "a mixture of experts",
    "mamba": "a recurrent model: it has no keys and values to keep",
    "rwkv": "a recurrent model: it has no keys and values to keep",
    "rwkv6": "a recurrent model: it has no keys and values to keep",
    "rwkv7": "a recurrent model: it has no keys and values to keep",
    "bert": "an encoder: it generates no text",
    "nomic-bert": "an encoder: it generates no text",
    "t5": "an encoder with a decoder",
    "t5encoder": "an encoder: it generates no text",
    "whisper": "a model of speech",
    "llava": "a model of images",
    "mllama": "a model of images",
}

FILE_TYPES: Mapping[str, tuple[str, str]] = {
    "adapter": ("a LoRA adapter", "merge it into its base model and export that"),
    "mmproj": ("the vision or audio part of a model (mmproj)", "name the file of its language model"),
    "imatrix": ("an importance matrix", "name the file of the model that it was measured on"),
}
"""`general.type` of a GGUF that holds no model."""


def refuse_family(where: str, field: str, kind: Any, known: Collection[str]) -> BadCheckpoint:
    """The failure of an architecture that no family reads."""
    reason, _, remedy = NOT_DECODERS.get(kind if type(kind) is str else "", "").partition("; ")
    found = f"{where} has no {field}" if kind is None else f"{where} is a model of type {short(kind)}"
    found += f": {reason}" if reason else ""
    return BadCheckpoint(found, f"{field} {' or '.join(known)}", remedy or "choose another model")
