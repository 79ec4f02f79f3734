"""A graph of an ONNX bundle, opened by ONNX Runtime and bound to its key/value state.

Owns which graph is run and where (`RunOptions`), the session, and the memory that it shares with its callers: ids,
position and sinks go in, and the state is written in place, so a run copies nothing but ids. What comes out is the
caller's business. Knows token ids and positions, not text and not sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from edgesink import names
from edgesink.errors import BadBundle, BadOption, MissingPackage, RunFailed, first_line
from edgesink.manifest import ONNX_GRAPH, Manifest
from edgesink.runtime.cores import threads_to_take
from edgesink.runtime.kernels import Kernels, available_kernels, kernels_graph
from edgesink.runtime.memory import give_back
from edgesink.runtime.ring_state import RingState, ort_value
from edgesink.spec import Device, Provider

EXECUTION_PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class RunOptions:
    """Where a bundle runs, and which of its graphs."""

    threads: int | None = None  # for matrix products; None takes the cores that the process may use
    device: Device = "cpu"  # of the products and of the state
    kernels: bool | None = None  # the graph for our own kernels; None takes it where it can be run
    mapped: bool | None = None  # leave the kernels' weights in their file; None where it is cheap
    exact: bool = False  # with kernels: 15 bits of the activations of prompts too, of which else most keep 8

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise BadOption(f"threads = {self.threads}", "1 or more")
        if self.device not in EXECUTION_PROVIDERS:
            raise BadOption(f"provider {self.device!r}", " or ".join(get_args(Provider)))
        if self.kernels and self.device != "cpu":
            raise BadOption(f"kernels on {self.device}", "the provider cpu, which they are written for")
        if self.mapped is not None and (self.device != "cpu" or self.kernels is False):
            raise BadOption(
                f"mapped = {self.mapped} without kernels", "kernels, which alone read weights from the file"
            )
        if self.exact and (self.device != "cpu" or self.kernels is False):
            raise BadOption("exact without kernels", "kernels, which alone can compute prompts in two ways")

    @classmethod
    def of(
        cls,
        threads: int | None = None,
        provider: Provider = "cpu",
        kernels: bool | None = None,
        mapped: bool | None = None,
        exact: bool = False,
    ) -> RunOptions:
        """The options as users give them: the provider "plain" is the CPU without kernels."""
        if provider != "plain":
            return cls(threads, provider, kernels, mapped, exact)
        if kernels:
            raise BadOption("kernels with the provider plain, which is the CPU without them", "the provider cpu")
        return cls(threads, "cpu", kernels=False, mapped=mapped, exact=exact)


class BoundGraph:
    """A session of ONNX Runtime over one stream's state.

    Args:
        bundle: the folder.
        manifest: of the bundle.
        options: where it runs.
        derive: makes the model to run from the file of the graph that would be; None runs that graph. What it makes
            refers to the same weights.

    Attributes:
        name: what runs the graph, "onnxruntime 1.32.0 cpu, AVX2 kernels".
        state: the key/value buffers.
        can_hide: whether a window can be made to begin later than it has to (`names.OLDEST`).
        has_kernels: whether the graph is the one for our kernels.

    Raises:
        BadBundle, BadOption, MissingPackage: each says what to do.
    """

    def __init__(
        self, bundle: Path, manifest: Manifest, options: RunOptions, derive: Callable[[Path], bytes] | None = None
    ) -> None:
        self._kernels = _kernels(bundle, manifest, options)  # their memory is the session's
        session = _open_session(bundle, manifest, options, self._kernels, derive)
        _check_vocabulary(session, manifest)
        self.name, self.has_kernels = _runner_name(options.device, self._kernels), self._kernels is not None
        optional = {given.name for given in session.get_overridable_initializers()}
        self.can_hide = names.OLDEST in optional
        if manifest.logit_rows and names.LOGIT_ROWS not in optional:
            raise BadBundle(
                f"the graph has no input {names.LOGIT_ROWS}", "one, as its manifest says", "export the model again"
            )
        self._session, self._manifest, self._device = session, manifest, options.device
        self._bind()

    def another(self) -> BoundGraph:
        """The same graph and weights over a state of its own; the two are run one at a time."""
        other = copy(self)
        other._bind()
        return other

    def _bind(self) -> None:
        """Buffers of its own, and the session bound to them."""
        self._binding, self._run = self._session.io_binding(), self._session.run_with_iobinding
        self.state = RingState(self._session, self._binding, self._manifest, self._device)
        self._shared: dict[str, Any] = {}
        self._position, self._sinks = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self.share_input(names.POSITION, self._position)
        self.share_input(names.SINKS, self._sinks)
        self._oldest = np.zeros(1, np.int64)
        if self.can_hide:
            self.share_input(names.OLDEST, self._oldest)
        self._one_id = np.zeros((1, 1), np.int64)
        self._one_id_value = ort_value(self._one_id)

    def share_input(self, name: str, array: np.ndarray) -> None:
        """From now on every run reads this input from `array`."""
        self._shared[name] = ort_value(array)
        self._binding.bind_ortvalue_input(name, self._shared[name])

    def share_output(self, name: str, array: np.ndarray) -> None:
        """From now on every run writes this output to `array`."""
        self._shared[name] = ort_value(array)
        self._binding.bind_ortvalue_output(name, self._shared[name])

    def run(self, ids: np.ndarray, position: int, sinks: int, oldest: np.ndarray | None = None) -> None:
        """Run ids (int64 [T], at most a chunk) that stand at `position`, …, position + T - 1.

        Args:
            oldest: int64 [T], where the window of each begins at the earliest, no later than itself and no earlier
                than that of the token before; None hides nothing. Only of a graph that `can_hide`.

        Raises:
            RunFailed: ONNX Runtime or an operator stopped. The stream may go on from `position` as if nothing had been
                run: what was written to the state lies where no token up to there is looked for.
        """
        self.state.make_room(position, len(ids), sinks)
        self._position[0], self._sinks[0] = position, sinks
        if len(ids) == 1:
            self._one_id[0, 0] = ids[0]
            self._binding.bind_ortvalue_input(names.IDS, self._one_id_value)
        else:
            self._binding.bind_cpu_input(names.IDS, np.ascontiguousarray(ids.reshape(1, -1)))
        if oldest is not None and len(oldest) > 1:
            self._binding.bind_ortvalue_input(names.OLDEST, ort_value(oldest))
        elif self.can_hide:
            self._oldest[0] = 0 if oldest is None else oldest[0]
        try:
            self._run(self._binding)
        except Exception as error:  # onnxruntime raises many kinds, all of them with its own words
            raise RunFailed(
                f"{self.name} stopped at token {position} ({first_line(error)})",
                "",
                "go on from there or reset the stream; if it stops again, load the bundle with kernels=False",
            ) from None
        finally:
            if oldest is not None and len(oldest) > 1:
                self._binding.bind_ortvalue_input(names.OLDEST, self._shared[names.OLDEST])


def _check_vocabulary(session: Any, manifest: Manifest) -> None:
    """BadBundle if the graph says that it gives logits of another vocabulary than the manifest's."""
    shapes = {output.name: output.shape for output in session.get_outputs()}
    found = shapes.get(names.LOGITS, [manifest.vocab])[-1]
    if isinstance(found, int) and found != manifest.vocab:
        expected = f"{manifest.vocab}, as its manifest says"
        raise BadBundle(f"the graph gives logits of {found} tokens", expected, "export the model again")


def _kernels(bundle: Path, manifest: Manifest, options: RunOptions) -> Kernels | None:
    """The kernels with the bundle's weights, where they are wanted and can be had."""
    if options.kernels is False or options.device != "cpu":
        return None
    graph = kernels_graph(bundle, manifest)
    if graph is None and options.kernels:
        raise BadOption(
            "kernels for a bundle without a graph for them" if available_kernels() else "kernels on this machine",
            "a bundle in int8 or int4, and edgesink installed with a C compiler on x86-64 with AVX2 or on ARM",
            "leave --kernels out",
        )
    return Kernels(graph, options.mapped, manifest.step_weight_bytes, options.exact) if graph else None


def _open_session(
    bundle: Path,
    manifest: Manifest,
    options: RunOptions,
    kernels: Kernels | None,
    derive: Callable[[Path], bytes] | None,
) -> Any:
    """An ONNX Runtime session of the bundle's graph, of the kernels', or of what `derive` makes of it."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise MissingPackage("running a bundle needs onnxruntime", "", "pip install edgesink") from None
    provider = EXECUTION_PROVIDERS[options.device]
    if provider not in ort.get_available_providers():
        raise MissingPackage(
            f"this onnxruntime has no {provider}",
            f"one of {', '.join(ort.get_available_providers())}",
            "pip install onnxruntime-gpu in place of onnxruntime, on a machine with an NVIDIA GPU",
        )
    path = kernels.graph if kernels else bundle / ONNX_GRAPH
    settings = _session_options(options.threads)
    if derive is not None:
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle.resolve()))
    model = derive(path) if derive else path
    try:
        if kernels is not None:
            kernels.add_to(settings)
        session = ort.InferenceSession(model, settings, providers=[provider])
    except Exception as error:  # onnxruntime raises many kinds, all of them saying that the file does not load
        raise BadBundle(
            f"onnxruntime {ort.__version__} cannot load {path} ({first_line(error)})",
            f"the version it was made for, {manifest.tools.get('onnxruntime', 'a newer one')}",
            "update onnxruntime, or export the bundle again",
        ) from None
    if kernels is None:
        give_back()
    return session


def _session_options(threads: int | None) -> Any:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    # threads spin within a step, where they soon get work, and rest between two, where a battery pays for it
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    count = threads_to_take(threads)
    if count is not None:
        settings.intra_op_num_threads = count
    return settings


def _runner_name(device: Device, kernels: Kernels | None) -> str:
    import onnxruntime as ort

    return f"onnxruntime {ort.__version__} {device}" + (f", {kernels.name} kernels" if kernels else "")
