"""Files that stand where weights should be: a pointer of Git LFS, a web page, weights in another format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgesink.errors import BadCheckpoint, reason

OTHERS: Mapping[bytes, tuple[str, str]] = {
    b"PK\3\4": ("a zip file, as PyTorch's own checkpoints are", "save it as safetensors"),
    b"\x80\2\x8a\n": ("a Python pickle, which may run code when it is read", "save it as safetensors"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "unpack it"),
    b"ggjt"[::-1]: ("a model in GGML, which came before GGUF", "take its GGUF"),
    b"ggml"[::-1]: ("a model in GGML, which came before GGUF", "take its GGUF"),
}
"""First bytes -> what such a file is, and the way out."""


def check_stand_in(path: Path) -> None:
    """BadCheckpoint if the file is known by its first bytes as no weights at all."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be read ({reason(error)})") from None
    if start.startswith(b"version https://git-lfs"):
        raise BadCheckpoint(f"{path} is a Git LFS pointer", "the file itself", "fetch it with: git lfs pull")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise BadCheckpoint(f"{path} is a web page", "the file itself", "download it again")
    if not start:
        raise BadCheckpoint(f"{path} is empty", "the file itself", "download it again")
    for magic, (what, remedy) in OTHERS.items():
        if start.startswith(magic):
            raise BadCheckpoint(f"{path} is {what}", "safetensors or GGUF", remedy)
