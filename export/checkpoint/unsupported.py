"""What a model or a file is that cannot be exported, and the way out where there is one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from edgesink.errors import BadCheckpoint
from edgesink.export.families.fields import short

NOT_DECODERS: Mapping[str, str] = {  # after a semicolon the way out
    "clip": "the vision part of a model of images (mmproj); name the file of its language model",
    **dict.fromkeys(
        (
            "dbrx",
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v4",
            "deepseek2",
            "ernie4_5_moe",
            "glm4_moe",
            "granitemoe",
            "granitemoeshared",
            "grok",
            "hunyuan_v1_moe",
            "llama4",
            "llama4_text",
            "minimax",
            "minimax_m2",
            "mixtral",
            "olmoe",
            "phimoe",
            "qwen2_moe",
            "qwen2moe",
            "qwen3_moe",
            "qwen3moe",
            "smallthinker",
        ),
        "a mixture of experts; choose the family's dense model",
    ),
    **dict.fromkeys(
        ("gpt_oss", "gpt-oss"),
        "a mixture of experts with learned sink logits, which are scalars in the softmax and no tokens to pin",
    ),
    **dict.fromkeys(
        ("minicpm3",),
        "attention over latent keys and values (MLA)",
    ),
    **dict.fromkeys(
        ("falcon_mamba", "mamba", "mamba2", "recurrent_gemma", "rwkv", "rwkv6", "rwkv7", "xlstm"),
        "a recurrent model: it has no keys and values to keep",
    ),
    **dict.fromkeys(
        (
            "bamba",
            "falcon_h1",
            "falcon-h1",
            "granitehybrid",
            "granitemoehybrid",
            "jamba",
            "lfm2",
            "lfm2_moe",
            "lfm2moe",
            "lfm3",
            "nemotron_h",
            "plamo2",
            "qwen3_5",
            "qwen3_5_text",
            "qwen3_5_moe",
            "qwen3_next",
            "qwen35",
            "qwen3next",
            "zamba",
            "zamba2",
        ),
        "a hybrid: some of its layers are recurrent or convolutions, and keep no keys and values",
    ),
    **dict.fromkeys(
        ("gemma3n", "gemma3n_text", "gemma4", "gemma4_text"),
        "a model with an embedding for each layer, and layers that share keys and values; take Gemma 3",
    ),
    **dict.fromkeys(
        ("hunyuan_v1_dense", "hunyuan-dense"),
        "weighted norms of keys that are turned already: a key once turned cannot be kept",
    ),
    **dict.fromkeys(
        ("albert", "bert", "distilbert", "electra", "modernbert", "nomic-bert", "roberta", "t5encoder", "xlm-roberta"),
        "an encoder: it generates no text",
    ),
    **dict.fromkeys(("bart", "mbart", "t5", "t5gemma", "umt5"), "an encoder with a decoder"),
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
