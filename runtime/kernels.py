"""Operators of our own, compiled when edgesink is installed: where they are, what they run on, and their weights.

Owns the way from a bundle to what ONNX Runtime needs to run its second graph. Where there was no C compiler, or the
processor is none of those in `kernels/`, there are no kernels, and the graph of standard operators is run.
"""

from __future__ import annotations

import ctypes
import itertools
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgesink.errors import BadBundle
from edgesink.kernel_image import GROUP, LOCATION, Image, Part
from edgesink.manifest import KERNELS_GRAPH, KERNELS_IMAGE, ONNX_DATA, Manifest

READ_BYTES = 1 << 20  # of weights at once, on their way to where they belong
MODULE = "edgesink.runtime._kernels"  # a library that ONNX Runtime opens, never imported


def kernels_graph(bundle: Path, manifest: Manifest) -> Path | None:
    """The bundle's second graph; None where it has none, or this machine has no kernels."""
    return bundle / KERNELS_GRAPH if manifest.has_kernels and available_kernels() else None


def available_kernels() -> list[str]:
    """The kernels that this processor runs, as "AVX2", the fastest first."""
    library = _library()
    if library is None:
        return []
    in_order = map(library.edgesink_kernels, itertools.count())
    return [name.decode() for name in itertools.takewhile(bool, in_order)]


def choose_kernels(name: str) -> None:
    """Take other kernels than the fastest, in every session of this process: to compare them."""
    library = _library()
    assert library is not None, "there are none to choose from"
    library.edgesink_choose_kernels(available_kernels().index(name))


class Kernels:
    """The kernels with a bundle's weights, laid out in memory.

    Attributes:
        graph: the bundle's second.
        name: of the kernels that run it.
    """

    def __init__(self, graph: Path) -> None:
        self.graph, self.name = graph, available_kernels()[0]
        self._image = _laid_out(graph.parent)  # ONNX Runtime reads it where it lies

    def add_to(self, options: Any) -> None:
        """Give ONNX Runtime's session options the operators and the weights."""
        options.register_custom_ops_library(str(_path()))
        options.add_session_config_entry("session.use_external_initializer_file_buffers_directly", "1")
        options.add_external_initializers_from_files_in_memory([LOCATION], [self._image], [len(self._image)])


def _laid_out(bundle: Path) -> np.ndarray:
    """The image, uint8, as `kernel_image` says."""
    image = Image.from_json((bundle / KERNELS_IMAGE).read_text(encoding="utf-8", errors="replace"))
    image.check_fits((bundle / ONNX_DATA).stat().st_size)
    offsets = image.offsets
    memory = np.empty(offsets[-1], np.uint8)  # large, so numpy asks for huge pages
    with (bundle / ONNX_DATA).open("rb", buffering=0) as data:
        for part, at in zip(image.parts, offsets[:-1], strict=True):
            _lay_out(data, part, memory[at : at + part.image_bytes])
    return memory


def _lay_out(data: BinaryIO, part: Part, goal: np.ndarray) -> None:
    """Read one part, a few rows at a time, so that little is held twice."""
    data.seek(part.offset)
    if part.rows == 1:
        _read(data, goal)
        return
    library = _library()
    step = max(1, READ_BYTES // (GROUP * part.row_bytes)) * GROUP
    for row in range(0, part.rows, step):
        count = min(step, part.rows - row)
        whole = -(-count // GROUP) * GROUP
        rows = np.zeros((whole, part.row_bytes), np.uint8)
        _read(data, rows[:count].reshape(-1))
        to = goal[row * part.kept :].ctypes.data
        library.edgesink_side_by_side(rows.ctypes.data, to, whole, part.row_bytes, part.kept, part.unit)


def _read(data: BinaryIO, goal: np.ndarray) -> None:
    if data.readinto(goal) != len(goal):  # type: ignore[attr-defined]
        raise BadBundle(f"{data.name} ends too soon", "", "copy or export the bundle again")


@cache
def _library() -> Any:
    """The compiled library; None where there is none."""
    path = _path()
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    library.edgesink_kernels.restype = ctypes.c_char_p
    library.edgesink_kernels.argtypes = [ctypes.c_size_t]
    library.edgesink_choose_kernels.argtypes = [ctypes.c_size_t]
    library.edgesink_group.restype = ctypes.c_size_t
    library.edgesink_side_by_side.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *([ctypes.c_size_t] * 4)]
    return library


def _path() -> Path | None:
    spec = find_spec(MODULE)
    return Path(spec.origin) if spec and spec.origin else None
