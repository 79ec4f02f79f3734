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
from edgesink.export.blocks import Blocks
from edgesink.export.checkpoint.folder import SafetensorsCheckpoint
from edgesink.export.checkpoint.gguf_file import GgufCheckpoint
from edgesink.export.checkpoint.gguf_header import is_gguf
from edgesink.export.checkpoint.stand_ins import check_stand_in
from edgesink.export.families.weights_of import weight_names, weight_shape
from edgesink.export.halves import Halves
from edgesink.sampling_defaults import SamplingDefaults
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
    sampling: SamplingDefaults | None  # that its makers recommend; None if nobody says
    sink_token_id: int | None  # stood in front of every sample in training, if the checkpoint says so

    @property
    def bos_id(self) -> int | None:
        """Put before plain text; BadCheckpoint if its tokenizer cannot be used."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Every id that its files call an end."""

    @property
    def dropped_tokens(self) -> tuple[str, ...]:
        """Added tokens of its tokenizer for which the embedding has no row: the bundle's has them not."""

    def tensor(self, weight: str) -> np.ndarray:
        """The weight as float32, [out, in] or [n]; BadCheckpoint if it holds what is not a finite number."""

    def kind(self, weight: str) -> str | None:
        """The type in which the checkpoint holds a matrix, "Q4_K"; None if it quantised nothing, or of a vector."""

    def tensor_name(self, weight: str) -> str:
        """The tensor that holds the weight, as the file spells it."""

    def blocks(self, weight: str) -> Blocks | Halves | None:
        """The weight as the checkpoint itself holds it, or nearly; None where `kind` is."""

    def write_tokenizer(self, path: Path) -> None:
        """Write its tokenizer.json to `path`; BadCheckpoint if there is none that can be read."""

    def templates(self) -> dict[str, str]:
        """Its chat templates by name; "default" is the one that is taken unasked. BadCheckpoint if one is no text."""

    def special_tokens(self) -> dict[str, str]:
        """Texts of the special tokens that its tokenizer declares, by the names that templates use: "bos_token"."""


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a GGUF file or a folder of safetensors; BadCheckpoint says what is wrong with it."""
    if path.is_file():
        check_stand_in(path)
        if path.suffix == ".safetensors" and not is_gguf(path):
            raise BadCheckpoint(
                f"{path} is one file of a checkpoint", "its folder, with config.json", "name the folder"
            )
        return GgufCheckpoint(path)
    if path.is_dir() and (path / "config.json").is_file():
        return SafetensorsCheckpoint(path)
    raise BadCheckpoint(f"{path} is not a checkpoint", "a folder with config.json and safetensors, or a .gguf file")
