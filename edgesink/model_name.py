"""What a user means by MODEL: a bundle, a checkpoint on disk, a short name, or a model of the hub.

Owns that question, and every command asks it here. What is on disk comes first, then the short names, then the hub.
Reads no weights and downloads nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgesink.errors import BadCheckpoint, reason
from edgesink.files import recover_folder
from edgesink.manifest import MANIFEST
from edgesink.models import MODELS, PackagedModel
from edgesink.paths import expanded

PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.IGNORECASE)
"""How llama-gguf-split calls the parts of a model."""

Kind = Literal["bundle", "checkpoint", "hub"]


@dataclass(frozen=True)
class ModelName:
    """MODEL, understood."""

    text: str  # as the user wrote it
    kind: Kind
    path: Path | None = None  # of a bundle or a checkpoint: a folder or a file
    hub_id: str | None = None  # "owner/name" of a model of the hub
    packaged: PackagedModel | None = None  # where a Python package carries the model too

    @property
    def short(self) -> str:
        """A name for files made of it: "Llama-3.2-1B-Instruct", whatever folder it lies in."""
        if self.path is None:
            return self.text.rpartition("/")[2]
        name = self.path.resolve().name
        if not self.path.is_file():
            return name
        part = PART_NAME.fullmatch(name)
        return part["stem"] if part else re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)

    @property
    def files(self) -> list[Path]:
        """Every file of a checkpoint on disk: of a folder, or of a GGUF with the other parts of its model."""
        assert self.path is not None
        part = PART_NAME.fullmatch(self.path.name)
        if self.path.is_dir():
            inside = list(self.path.rglob("*"))
        else:
            inside = [part_path(self.path, part, n) for n in range(1, int(part["count"]) + 1)] if part else [self.path]
        return sorted(path for path in inside if path.is_file())


def part_path(path: Path, match: re.Match[str], number: int) -> Path:
    """The part of that number, counted from 1, beside the one that `match` is of."""
    return path.with_name(f"{match['stem']}-{number:05}-of-{match['count']}{match['suffix']}")


def understand(model: str) -> ModelName:
    """Say what `model` is; BadCheckpoint if it can be nothing that edgesink knows."""
    path = expanded(model)
    recover_folder(path)
    _check_reachable(path)
    if (path / MANIFEST).is_file():
        return ModelName(model, "bundle", path)
    if path.is_dir() and not (path / "config.json").is_file():
        files = sorted(file.name for file in path.iterdir() if file.name.lower().endswith(".gguf"))
        raise BadCheckpoint(
            f"{path} holds neither {MANIFEST} nor config.json",
            "a bundle, or a checkpoint folder",
            f"name the file: {path / files[0]}" if files else "make a bundle with `edgesink export`",
        )
    if path.exists():
        return ModelName(model, "checkpoint", path)
    if model in MODELS:
        return ModelName(model, "hub", hub_id=MODELS[model].hub_id, packaged=MODELS[model].packaged)
    owner, _, name = model.partition("/")
    if not owner or not name or "/" in name or model.startswith((".", "~")) or name.lower().endswith(".gguf"):
        raise BadCheckpoint(
            f"no model {model!r}", f"a short name ({', '.join(MODELS)}), a hub id owner/name, a folder or a .gguf file"
        )
    return ModelName(model, "hub", hub_id=model)


def _check_reachable(path: Path) -> None:
    """BadCheckpoint if the system does not say what stands at `path`, or keeps a folder closed."""
    try:
        path.stat()
        if path.is_dir():
            os.scandir(path).close()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{str(path)[:200]!r} cannot be opened ({reason(error)})", "a path or a name") from None
