"""The safetensors files of a folder: which tensors they hold, and in which file.

Owns the choice between one file and an index of several, as transformers chooses, and the headers' check against the
index. Reads no weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesink.errors import BadCheckpoint, first_line
from edgesink.export.checkpoint.config import read_object
from edgesink.export.checkpoint.stand_ins import check_stand_in
from edgesink.export.families.fields import short

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True)
class Tensor:
    """One tensor's place."""

    file: str
    key: str  # its name in the file
    shape: tuple[int, ...]
    kind: str  # of its numbers, as the file says it: "F32"


def read_headers(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder's files by name; BadCheckpoint for one that is not where it should be."""
    if (folder / SINGLE).is_file():
        return _header(folder, SINGLE)
    if not (folder / INDEX).is_file():
        raise BadCheckpoint(f"no {SINGLE} in {folder}", "safetensors weights, in one file or sharded")
    files = _file_of_each(folder)
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(files.values())):
        for key, tensor in _header(folder, name).items():
            if files.get(key) != name:
                raise BadCheckpoint(
                    f"{folder / name} has a tensor {key!r}", f"it in {files.get(key) or 'no file'}, as {INDEX} says"
                )
            tensors[key] = tensor
    for key in sorted(files.keys() - tensors.keys()):
        raise BadCheckpoint(f"{folder / files[key]} has no tensor {key!r}", f"it there, as {INDEX} says")
    return tensors


def check_floats(tensors: Mapping[str, Tensor], folder: Path, exempt: Callable[[str], bool]) -> None:
    """BadCheckpoint for a tensor that holds no floats, but for those that are exempt."""
    for key, tensor in tensors.items():
        if tensor.kind not in FLOATS and not exempt(key):
            raise BadCheckpoint(
                f"tensor {tensor.key!r} of {folder / tensor.file} is of type {tensor.kind}: quantised, or no weight",
                ", ".join(FLOATS),
                "take the model that it was made from",
            )


def open_shard(path: Path) -> Any:
    """A safetensors file, mapped; numpy has no bfloat16, so tensors are PyTorch's."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise BadCheckpoint(f"{path} is missing", "every shard of the index", "download it again")
    check_stand_in(path)
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(f"{path} cannot be read ({first_line(error)})", "", "download it again") from None


def _header(folder: Path, name: str) -> dict[str, Tensor]:
    tensors = {}
    with open_shard(folder / name) as file:
        for key in file.keys():  # noqa: SIM118 (it is no mapping)
            part = file.get_slice(key)
            tensors[key] = Tensor(name, key, tuple(part.get_shape()), part.get_dtype())
    return tensors


def _file_of_each(folder: Path) -> Mapping[str, str]:
    """Tensor -> file, from the index; only names of files in the folder itself."""
    where = folder / INDEX
    files = read_object(where).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise BadCheckpoint(f"{where} has weight_map = {short(files)}", "an object: tensor -> file")
    for key, name in files.items():
        if type(name) is not str or name in ("", ".", "..") or Path(name).name != name:
            raise BadCheckpoint(f"{where} puts {key!r} into {short(name)}", "the name of a file of the folder")
    return files


def with_prefix(tensors: Mapping[str, Tensor], embedding: str, head: str) -> dict[str, Tensor]:
    """The tensors as a causal model spells them.

    A base model that was saved alone has its keys without the first part ("model."); its embedding shows that.
    """
    prefix, _, rest = embedding.partition(".")
    if embedding in tensors or rest not in tensors:
        return dict(tensors)
    return {key if key == head else f"{prefix}.{key}": tensor for key, tensor in tensors.items()}
