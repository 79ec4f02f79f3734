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
from typing import Any

from edgesink.manifest import KERNELS_GRAPH, ONNX_DATA, Manifest
from edgesink.runtime.weight_file import open_weights

EXACT = "edgesink.exact"  # a session's entry that `kernels/onnxruntime.c` knows
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
    """The kernels, and a bundle's weights as they read them.

    Args:
        graph: the bundle's second.
        exact: round the activations of long passes as finely as those of short ones.
        mapped, step_bytes: whether the weights stay in their file, and how many of them a step reads; see
            `weight_file.open_weights`.

    Attributes:
        graph: as given.
        name: of the kernels that run it.
    """

    def __init__(
        self, graph: Path, mapped: bool | None = None, step_bytes: int | None = None, exact: bool = False
    ) -> None:
        self.graph, self.name, self._exact = graph, available_kernels()[0], exact
        self._weights = open_weights(graph.with_name(ONNX_DATA), mapped, step_bytes)

    def add_to(self, options: Any) -> None:
        """Give ONNX Runtime's session options the operators and the weights, which it reads where they lie."""
        if self._exact:
            options.add_session_config_entry(EXACT, "1")  # before the library is registered, which looks for it
        options.register_custom_ops_library(str(_path()))
        options.add_session_config_entry("session.use_external_initializer_file_buffers_directly", "1")
        options.add_external_initializers_from_files_in_memory([ONNX_DATA], [self._weights], [len(self._weights)])


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
    return library


def _path() -> Path | None:
    spec = find_spec(MODULE)
    return Path(spec.origin) if spec and spec.origin else None
