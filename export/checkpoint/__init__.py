"""Reads a checkpoint: its architecture as a `ModelSpec`, its weights one at a time, its tokenizer's files.

Owns the meeting of checkpoint spelling and ours: key names and config fields of safetensors folders and GGUF files
stop here, and a family's module says which. Every tensor and every architecture field is used, or refused by name
before a weight is read. A weight is read when it is asked for and not kept, so memory follows the largest tensor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from edgesink.errors import BadCheckpoint
from edgesink.export.checkpoint.folder import SafetensorsCheckpoint
from edgesink.export.checkpoint.gguf_file import GgufCheckpoint
from edgesink.export.families.weights_of import weight_names, weight_shape
from edgesink.export.quantize import Blocks
from edgesink.spec import ModelSpec

__all__ = [
    "Checkpoint",
    "GgufCheckpoint",
    "SafetensorsCheckpoint",
    "open_checkpoint",
    "weight_names",
    "weight_shape",
]


class Checkpoint(Protocol):
    """A model on disk."""

    path: Path
    model: ModelSpec
    bos_id: int | None  # put before plain text
    eos_ids: tuple[int, ...]
    sink_token_id: int | None  # stood in front of every sample in training, if the checkpoint says so

    def tensor(self, weight: str) -> np.ndarray:
        """The weight as float32, [out, in] or [n]; BadCheckpoint if it holds what is not a finite number."""

    def blocks(self, weight: str) -> Blocks | None:
        """The weight as the checkpoint itself quantised it, or nearly; None if it is held in floats."""

    @property
    def kinds(self) -> str | None:
        """The quantisations of its matrices, for people: "Q4_1, Q8_0"; None if they are floats."""

    def write_tokenizer(self, path: Path) -> None:
        """Write its tokenizer.json to `path`; BadCheckpoint if there is none that can be read."""

    def template(self) -> str | None:
        """Its chat template."""


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a GGUF file or a folder of safetensors; BadCheckpoint says what is wrong with it."""
    if path.is_file():
        return GgufCheckpoint(path)
    if path.is_dir() and (path / "config.json").is_file():
        return SafetensorsCheckpoint(path)
    raise BadCheckpoint(f"{path} is not a checkpoint", "a folder with config.json and safetensors, or a .gguf file")
