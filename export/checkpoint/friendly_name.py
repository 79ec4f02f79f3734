"""A model's name for people, from what its files say.

The name that a file gives itself is often the working title of a training run ("Smollm2 135M 8k Lc100K Mix1 Ep2"), and
the folder that the hub's cache keeps a model in is called by a hash. Owns the order in which names are believed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

QUANTISATION = re.compile(r"[-._]((i?q\d|ud-|bf16|f16|f32|fp16|mxfp4|tq\d).*|gguf)$", re.IGNORECASE)  # "…-Q4_K_M"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
TUNINGS = ("instruct", "chat", "it", "base", "thinking", "coder", "reasoning", "dpo", "sft", "rlhf")


def folder_name(said: Any, folder: Path) -> str:
    """Of a folder: its hub id if it lies in the hub's cache, else the one that its config says, else its own name."""
    folder = folder.resolve()
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.split("--")[-1]
    if type(said) is str and HUB_ID.fullmatch(said):
        return Path(said).name
    return folder.name


def gguf_name(fields: Mapping[str, Any], path: Path) -> str:
    """Of a GGUF: its file's name where that begins as the model is called, else the parts of the name in the header."""
    stem = QUANTISATION.sub("", SHARD.sub("", path.stem))
    base, size, tuning, title = (_text(fields, name) for name in ("basename", "size_label", "finetune", "name"))
    if base and _plain(stem).startswith(_plain(base)):
        return stem
    if base and size:
        known = [word for word in re.split(r"[-_ ]", tuning) if word.lower() in TUNINGS]
        return "-".join([base.replace(" ", "-"), size, *known])
    return title or stem


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(f"general.{name}")
    return value.strip() if type(value) is str else ""


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
