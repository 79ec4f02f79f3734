"""The memory that the kernels read weights from: which bytes of the bundle's data file go where, and in what order.

Owns the file format, written by the exporter and read by the runtime. In the data file a matrix lies row by row, as
ONNX Runtime's own operators want it; the kernels want 16 rows side by side, so that what they read lies in one piece
and a lane of a vector is a row. Moving bytes once, when a bundle is loaded, gives both from one file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from edgesink.errors import BadBundle

FORMAT = 1
LOCATION = "memory"  # the file that the graph says its weights are in, and the runtime gives as bytes
GROUP = 16  # rows side by side; the library says the same, edgesink_group()
ALIGNMENT = 64  # bytes; of every part of the image


@dataclass(frozen=True)
class Part:
    """One tensor: rows of units of 4 or 2 bytes, laid side by side; or one row that stays as it is."""

    offset: int  # in the data file
    rows: int  # 1: nothing is moved
    row_bytes: int
    kept: int  # of the bytes of a row, the first
    unit: int  # bytes that stay together; 16: a block of codes in 4 bits, which the kernels want in another order

    @property
    def data_bytes(self) -> int:
        """Bytes in the data file, from `offset` on."""
        return self.rows * self.row_bytes

    @property
    def image_bytes(self) -> int:
        """Bytes in the image: rows filled up to whole groups."""
        return self.kept if self.rows == 1 else self.kept * -(-self.rows // GROUP) * GROUP

    def __post_init__(self) -> None:
        fits = self.offset >= 0 and self.rows > 0 and 0 < self.kept <= self.row_bytes and self.unit in (2, 4, 16)
        if not fits or self.offset % self.unit or self.row_bytes % self.unit or self.kept % self.unit:
            raise BadBundle(f"the kernels' weights have an impossible entry, {self}", "", "export the model again")


@dataclass(frozen=True)
class Image:
    """The parts, one behind the other, each from a multiple of `ALIGNMENT` on."""

    parts: tuple[Part, ...]

    @property
    def offsets(self) -> list[int]:
        """Where in the image each part begins, and at the end how long it is."""
        found = [0]
        for part in self.parts:
            found.append(found[-1] + -(-part.image_bytes // ALIGNMENT) * ALIGNMENT)
        return found

    def check_fits(self, data_bytes: int) -> None:
        """BadBundle if the parts do not lie in a data file of so many bytes, or take any of them twice."""
        ends = [part.offset + part.data_bytes for part in self.parts]
        if max(ends, default=0) > data_bytes or sum(part.data_bytes for part in self.parts) > data_bytes:
            raise BadBundle(
                "the list of the kernels' weights leads beyond them",
                f"parts of a file of {data_bytes} bytes",
                "copy or export the bundle again",
            )

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps({"format": FORMAT, "parts": [asdict(part) for part in self.parts]}) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Image:
        """Read strictly; BadBundle says what is wrong."""
        try:
            data: Any = json.loads(text)
            if data["format"] != FORMAT or set(data) != {"format", "parts"}:
                raise ValueError(f"format {data['format']!r}")
            parts = [Part(**part) for part in data["parts"]]
            if any(type(number) is not int for part in parts for number in asdict(part).values()):
                raise ValueError("a field that is not an integer")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadBundle(f"the list of the kernels' weights cannot be read ({error})", "", "export again") from None
        return cls(tuple(parts))
