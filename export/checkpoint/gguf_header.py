"""A GGUF's header, walked before any library reads it: every length lies inside the file, and every name stands once.

Owns the refusal of files that are cut off, or damaged where a reader would loop or ask for memory. Keeps no value.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from edgesink.errors import BadCheckpoint, reason

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value, by its type
STRING, ARRAY = 8, 9
LONGEST_NAME = 1 << 16  # bytes
MOST_DIMENSIONS = 4
ALIGNMENT = 32  # bytes, where the file says no other
DAMAGED = "choose another copy of the model"


def is_gguf(path: Path) -> bool:
    """The file begins as a GGUF does, whatever it is called."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def check_header(path: Path) -> None:
    """BadCheckpoint if the file is no GGUF of version 2 or 3, damaged, or shorter than its header says."""
    try:
        data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be read ({reason(error)})") from None
    Header(data, str(path)).check()


class Header:
    """A place in a file's bytes, moved on by what is read."""

    def __init__(self, data: np.ndarray, where: str) -> None:
        self._data, self._where, self._at = data, where, 0
        self._alignment = ALIGNMENT

    def check(self) -> None:
        """See `check_header`."""
        if bytes(self._take(4)) != MAGIC:
            raise BadCheckpoint(f"{self._where} is not a GGUF file", "one that begins with GGUF")
        version = self._number("<I")
        if version not in VERSIONS:
            big = version in (v << 24 for v in VERSIONS)
            raise BadCheckpoint(
                f"{self._where} is a GGUF " + ("of a big-endian machine" if big else f"of version {version}"),
                "version 2 or 3, little-endian",
                "convert the model again",
            )
        tensors, fields = self._number("<Q"), self._number("<Q")
        self._check_names("field", fields, self._skip_field)
        ends = [0]
        self._check_names("tensor", tensors, lambda name: ends.append(self._tensor_end(name)))
        data_start = -(-self._at // self._alignment) * self._alignment
        if data_start + max(ends) > len(self._data):
            raise BadCheckpoint(
                f"{self._where} ends after {len(self._data)} bytes",
                f"{data_start + max(ends)}, as its header says",
                "download it again",
            )

    def _check_names(self, what: str, count: int, read: Any) -> None:
        seen: set[str] = set()
        for _ in range(count):
            name = self._string(LONGEST_NAME)
            if name in seen:
                raise self._damaged(f"two {what}s {name[:60]!r}")
            seen.add(name)
            read(name)

    def _skip_field(self, name: str) -> None:
        kind = self._number("<I")
        if name == "general.alignment" and kind == 4:
            self._alignment = self._number("<I")
            if not 0 < self._alignment <= LONGEST_NAME:
                raise self._damaged(f"an alignment of {self._alignment} bytes")
        else:
            self._skip_value(kind, name)

    def _skip_value(self, kind: int, name: str, depth: int = 0) -> None:
        if kind in SIZES:
            self._take(SIZES[kind])
        elif kind == STRING:
            self._take(self._number("<Q"))
        elif kind == ARRAY and depth < 2:
            item, count = self._number("<I"), self._number("<Q")
            if item in SIZES:
                self._take(SIZES[item] * count)
            else:
                for _ in range(count):
                    self._skip_value(item, name, depth + 1)
        else:
            raise self._damaged(f"the field {name[:60]!r} of type {kind}")

    def _tensor_end(self, name: str) -> int:
        """Bytes from the start of the data to the end of this tensor's."""
        from gguf import GGML_QUANT_SIZES

        dimensions = self._number("<I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise self._damaged(f"tensor {name[:60]!r} of {dimensions} dimensions")
        sizes = [self._number("<Q") for _ in range(dimensions)]
        kind, offset = self._number("<I"), self._number("<Q")
        block = {int(known): size for known, size in GGML_QUANT_SIZES.items()}.get(kind)
        if block is None:
            raise BadCheckpoint(
                f"tensor {name[:60]!r} of {self._where} is of a type {kind} that the gguf package does not know",
                "",
                "choose another quantisation of the model",
            )
        if min(sizes) == 0 or sizes[0] % block[0]:
            raise self._damaged(f"tensor {name[:60]!r} of shape {sizes[::-1]}")
        return offset + math.prod(sizes) // block[0] * block[1]

    def _string(self, most: int) -> str:
        length = self._number("<Q")
        if length > most:
            raise self._damaged(f"a name of {length} bytes")
        return bytes(self._take(length)).decode("utf-8", "replace")

    def _number(self, form: str) -> int:
        (number,) = struct.unpack(form, bytes(self._take(struct.calcsize(form))))
        return int(number)

    def _take(self, count: int) -> np.ndarray:
        if count > len(self._data) - self._at:
            raise BadCheckpoint(
                f"{self._where} is not a readable GGUF file: it ends, or is damaged, within its header after "
                f"{len(self._data)} bytes",
                "",
                "download it again",
            )
        self._at += count
        return self._data[self._at - count : self._at]

    def _damaged(self, found: str) -> BadCheckpoint:
        return BadCheckpoint(f"{self._where} is not a readable GGUF file: it has {found}", "", DAMAGED)
