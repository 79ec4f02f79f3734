"""Files that stand where weights should be: a pointer of Git LFS, a web page, a file cut off at its beginning."""

from __future__ import annotations

from pathlib import Path

from edgesink.errors import BadCheckpoint


def check_stand_in(path: Path) -> None:
    """BadCheckpoint if the file is known by its first bytes as no weights at all."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be read ({error})") from None
    if start.startswith(b"version https://git-lfs"):
        raise BadCheckpoint(f"{path} is a Git LFS pointer", "the file itself", "fetch it with: git lfs pull")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise BadCheckpoint(f"{path} is a web page", "the file itself", "download it again")
