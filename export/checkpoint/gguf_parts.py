"""The files of a GGUF: one, or the parts that llama-gguf-split made of it.

Owns finding the other parts of the one that a user names. The first part has all fields, every part some tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesink.errors import BadCheckpoint, first_line
from edgesink.export.checkpoint.gguf_header import check_header
from edgesink.export.checkpoint.stand_ins import check_stand_in
from edgesink.export.families.fields import short
from edgesink.model_name import PART_NAME, part_path

MOST_PARTS = 10_000
SPLIT = ("split.no", "split.count", "split.tensors.count")


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF says, whether in one file or in parts."""

    first: Path  # the file with the fields
    fields: dict[str, Any]
    tensors: dict[str, Any]  # gguf's own, by name


def read_gguf(path: Path) -> GgufFile:
    """Read the file, or all parts of the model that it is one of; BadCheckpoint for one that is missing or foreign."""
    fields, tensors = _read(path)
    count = fields.get("split.count", 0)
    if type(count) is not int or not 0 <= count <= MOST_PARTS:
        raise BadCheckpoint(f"{path} has split.count = {short(count)}", f"0 to {MOST_PARTS}")
    if count < 2:
        return GgufFile(path, fields, tensors)
    paths = _part_paths(path, count)
    parts = [(fields, tensors) if part == path else _read(part) for part in paths]
    whole: dict[str, Any] = {}
    for number, (part, (said, found)) in enumerate(zip(paths, parts, strict=True)):
        if (said.get("split.no"), said.get("split.count")) != (number, count):
            found_there = f"{short(said.get('split.no'))} of {short(said.get('split.count'))}"
            raise BadCheckpoint(f"{part} says that it is part {found_there}, counted from 0", f"{number} of {count}")
        if twice := sorted(whole.keys() & found.keys()):
            raise BadCheckpoint(f"{part} has a tensor {twice[0]!r} that another part has too", "each once")
        whole |= found
    total = parts[0][0].get("split.tensors.count", len(whole))
    if total != len(whole):
        raise BadCheckpoint(f"the {count} parts of {paths[0]} have {len(whole)} tensors", f"{short(total)}, as it says")
    return GgufFile(paths[0], {name: value for name, value in parts[0][0].items() if name not in SPLIT}, whole)


def _part_paths(path: Path, count: int) -> list[Path]:
    """Every part, in order, given one of them."""
    match = PART_NAME.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise BadCheckpoint(
            f"{path} is one of the {count} parts of a model that is split",
            f"its name to end in -00001-of-{count:05}.gguf or like numbers, by which the others are found",
            "rename the parts, or join them with llama-gguf-split --merge",
        )
    paths = [part_path(path, match, number) for number in range(1, count + 1)]
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise BadCheckpoint(
            f"{path} is one of {count} parts, and {path.parent} lacks {', '.join(missing[:3])}{more}",
            "all parts in one folder",
            "download what is missing",
        )
    return paths


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields by name, tensors by name) of one file."""
    from gguf import GGUFReader

    check_stand_in(path)
    check_header(path)
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # whatever damaged bytes lead the reader to
        raise BadCheckpoint(f"{path} is not a readable GGUF file ({first_line(error)})") from None
    return fields, {tensor.name: tensor for tensor in reader.tensors}
