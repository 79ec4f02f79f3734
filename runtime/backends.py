"""Runs a graph of an ONNX bundle: binds its state once, feeds it chunks.

Owns the ONNX Runtime session and the key/value state; knows token ids and positions, not text and not sampling.
The state's inputs and outputs are bound to the same memory, so a step copies nothing but its ids. On a processor that
has them our own kernels run the bundle's second graph, elsewhere standard operators the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgesink import names
from edgesink.errors import BadBundle, BadOption, MissingPackage, first_line
from edgesink.manifest import ONNX_GRAPH, Manifest
from edgesink.runtime.kernels import Kernels, kernels_graph
from edgesink.runtime.ring_state import RingState, ort_value

PROVIDERS = {"cpu": "CPUExecutionProvider", "plain": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""By the name that users give; "plain" is the CPU with no operators but ONNX Runtime's own."""


class Backend(Protocol):
    """What a stream needs of whatever runs its graph."""

    logits: np.ndarray  # float32 [V], after the last id fed; overwritten by the next run
    name: str  # what runs it, for people
    state_bytes: int  # of keys and values, from the first token to the last

    def feed(self, ids: np.ndarray, position: int, sinks: int) -> None:
        """Run ids (int64 [T], at most a chunk) that stand at `position`, …, position + T - 1."""

    def state(self) -> dict[str, np.ndarray]:
        """The state by name, [1, K, rows, D] each; on the CPU the very memory of the graph."""

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Overwrite the state."""


class OnnxBackend:
    """ONNX Runtime on the CPU, or on a GPU with the state resident there.

    Attributes:
        name: what runs the graph, "onnxruntime 1.32.0 cpu, AVX2 kernels".
    """

    def __init__(self, bundle: Path, manifest: Manifest, threads: int | None = None, provider: str = "cpu") -> None:
        kernels = kernels_of(bundle, manifest, provider)
        self._session = open_session(bundle, manifest, threads, provider, kernels=kernels)
        self._kernels = kernels  # their memory is the session's
        self.name = _runner_name(provider, kernels)
        self._binding = self._session.io_binding()
        self._state = RingState(self._session, self._binding, manifest, device_of(provider))
        self.state_bytes = self._state.bytes
        self._bind_ends(manifest)

    def feed(self, ids: np.ndarray, position: int, sinks: int) -> None:
        """See `Backend.feed`."""
        self._state.make_room(position, len(ids), sinks)
        self._position[0], self._sinks[0] = position, sinks
        if len(ids) == 1:
            self._one_id[0, 0] = ids[0]
            self._binding.bind_ortvalue_input(names.IDS, self._one_id_value)
        else:
            self._binding.bind_cpu_input(names.IDS, np.ascontiguousarray(ids.reshape(1, -1)))
        self._session.run_with_iobinding(self._binding)

    def state(self) -> dict[str, np.ndarray]:
        """See `Backend.state`."""
        return self._state.arrays()

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Backend.load_state`."""
        self._state.load(state)

    def _bind_ends(self, manifest: Manifest) -> None:
        """Positions and one id go in, logits come out, through arrays that the graph and we share."""
        self._position, self._sinks = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self._one_id = np.zeros((1, 1), np.int64)
        self._one_id_value = ort_value(self._one_id)
        logits = np.zeros((1, manifest.vocab), np.float32)
        self.logits = logits[0]
        self._held = [ort_value(array) for array in (self._position, self._sinks, logits)]
        self._binding.bind_ortvalue_input(names.POSITION, self._held[0])
        self._binding.bind_ortvalue_input(names.SINKS, self._held[1])
        self._binding.bind_ortvalue_output(names.LOGITS, self._held[2])


def device_of(provider: str) -> str:
    """Where the state is, "cpu" or "cuda"."""
    return "cuda" if provider == "cuda" else "cpu"


def kernels_of(bundle: Path, manifest: Manifest, provider: str) -> Kernels | None:
    """The kernels with the bundle's weights, where `provider` takes them and this machine has them."""
    graph = kernels_graph(bundle, manifest) if provider == "cpu" else None
    return Kernels(graph) if graph else None


def open_session(
    bundle: Path,
    manifest: Manifest,
    threads: int | None = None,
    provider: str = "cpu",
    graph: bytes | None = None,
    kernels: Kernels | None = None,
) -> Any:
    """An ONNX Runtime session of the bundle's graph, or of the kernels'.

    Args:
        graph: run in its place; it refers to the same weights.
        kernels: to be kept as long as the session.
    Raises:
        BadBundle, BadOption, MissingPackage: each says what to do.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        raise MissingPackage("running a bundle needs onnxruntime", "", "pip install edgesink") from None
    if provider not in PROVIDERS:
        raise BadOption(f"provider {provider!r}", " or ".join(PROVIDERS))
    if PROVIDERS[provider] not in ort.get_available_providers():
        raise MissingPackage(
            f"this onnxruntime has no {PROVIDERS[provider]}",
            f"one of {', '.join(ort.get_available_providers())}",
            "pip install onnxruntime-gpu in place of onnxruntime, on a machine with an NVIDIA GPU",
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # threads spin within a step, where they soon get work, and rest between two, where a battery pays for it
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        if threads < 1:
            raise BadOption(f"threads = {threads}", "1 or more")
        options.intra_op_num_threads = threads
    path = kernels.graph if kernels else bundle / ONNX_GRAPH
    if graph is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle.resolve()))
    try:
        if kernels is not None:
            kernels.add_to(options)
        return ort.InferenceSession(graph or path, options, providers=[PROVIDERS[provider]])
    except Exception as error:  # onnxruntime raises many kinds, all of them saying that the file does not load
        raise BadBundle(
            f"onnxruntime {ort.__version__} cannot load {path} ({first_line(error)})",
            f"the version it was made for, {manifest.tools.get('onnxruntime', 'a newer one')}",
            "update onnxruntime, or export the bundle again",
        ) from None


def _runner_name(provider: str, kernels: Kernels | None) -> str:
    import onnxruntime as ort

    return f"onnxruntime {ort.__version__} {provider}" + (f", {kernels.name} kernels" if kernels else "")
