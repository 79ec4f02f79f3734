"""What runs a bundle that is verified: a target and a device are values that choose one of these.

Owns the one call that every artefact has in common, `feed`, and which runners there are on this machine. A target
without one here cannot be verified on it; the Core ML program is read by our own evaluator of MIL, which shows what it
says and not what a phone does, and on a Mac Core ML runs it too.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from edgesink.errors import BadBundle, BadOption
from edgesink.manifest import COREAI_MODEL, Manifest
from edgesink.spec import ComputeUnits, Device
from edgesink.targets import Target

RunnerKind = Literal["target", "kernels", "core_ml", "torch"]
"""How a runner stands to its bundle: what every machine runs, the same on our own kernels, or Core ML on a Mac."""


class Runner(Protocol):
    """An artefact in the hands of something that runs it."""

    kind: RunnerKind
    name: str  # "onnxruntime 1.32.0 cpu"

    def feed(self, ids: np.ndarray, position: int, sinks: int) -> np.ndarray:
        """Run ids (int64 [T], at most a chunk) that stand at `position`, …; float32 [V], after the last."""


class Holder(Runner, Protocol):
    """A runner whose state may be looked at."""

    def state(self, name: str, part: int = 0) -> np.ndarray:
        """A state of a part of the model, of the manifest's shape, to be read before the next run."""


class OnnxRunner:
    """ONNX Runtime; the state stays on its device. On the CPU the graph of standard operators, or the kernels' own.

    The kernels run exactly: what they round in prompts to 8 bits would hide a fault of the graph as large as that.
    """

    def __init__(self, bundle: Path, manifest: Manifest, device: Device, kernels: bool = False) -> None:
        from edgesink.runtime.backends import OnnxBackend
        from edgesink.runtime.bound_graph import RunOptions

        self._backend = OnnxBackend(bundle, manifest, RunOptions(device=device, kernels=kernels, exact=kernels))
        self.name = self._backend.name
        self.kind: RunnerKind = "kernels" if kernels else "target"

    def feed(self, ids: np.ndarray, position: int, sinks: int) -> np.ndarray:
        self._backend.feed(ids, position, sinks)
        return self._backend.logits.copy()

    def state(self, name: str, part: int = 0) -> np.ndarray:
        return self._backend.state()[name]


class MilRunner:
    """Our evaluator of the Core ML program, rounding to fp16 wherever the program does unless told otherwise."""

    kind: RunnerKind = "target"

    def __init__(self, bundle: Path, manifest: Manifest, device: Device, precision: str = "fp16") -> None:
        from edgesink.verify.coreml_packages import EvaluatedPackage, feed_packages

        if device != "cpu":
            raise BadOption(f"device {device} for target {manifest.target}", "cpu")
        packages = [EvaluatedPackage(bundle / name, precision) for name in manifest.coreml_packages]
        self._packages, self.feed = packages, partial(feed_packages, packages, manifest)
        self.name = f"MIL evaluator {precision}"

    def state(self, name: str, part: int = 0) -> np.ndarray:
        return self._packages[part].state[name]


class CoreMlRunner:
    """Core ML itself, on a Mac."""

    kind: RunnerKind = "core_ml"

    def __init__(self, bundle: Path, manifest: Manifest, units: ComputeUnits) -> None:
        from edgesink.verify.coreml_packages import CoreMlPackage, feed_packages

        packages = [CoreMlPackage(bundle / name, units) for name in manifest.coreml_packages]
        self.feed = partial(feed_packages, packages, manifest)
        self.name = f"Core ML {units}, macOS {platform.mac_ver()[0]}, coremltools {version('coremltools')}"


class CoreAiRunner:
    """Apple's interpreter of Core AI programs."""

    kind: RunnerKind = "target"

    def __init__(self, bundle: Path, manifest: Manifest, device: Device) -> None:
        from edgesink.verify.coreai import CoreAiStream

        if device != "cpu":
            raise BadOption(f"device {device} for target {manifest.target}", "cpu")
        self._stream = CoreAiStream(bundle / COREAI_MODEL, manifest)
        self.name = f"Core AI interpreter {version('coreai-core')}"

    def feed(self, ids: np.ndarray, position: int, sinks: int) -> np.ndarray:
        return self._stream.feed(ids, position, sinks)

    def state(self, name: str, part: int = 0) -> np.ndarray:
        return self._stream.state(name)


RUNNERS: dict[Target, Callable[[Path, Manifest, Device], Holder]] = {
    "onnx": OnnxRunner,
    "coreml": MilRunner,
    "coreai": CoreAiRunner,
}


def open_runner(bundle: Path, manifest: Manifest, device: Device = "cpu") -> Holder:
    """The runner of the bundle's target on `device`; MissingPackage where the machine lacks it."""
    if manifest.target not in RUNNERS:
        raise BadBundle(f"a bundle for {manifest.target}", f"one for {' or '.join(RUNNERS)}, which can be run here")
    return RUNNERS[manifest.target](bundle, manifest, device)


def open_runners(
    bundle: Path,
    manifest: Manifest,
    device: Device = "cpu",
    units: ComputeUnits = "cpu_and_gpu",
    torch: Callable[[], Runner] | None = None,
) -> list[Runner]:
    """All that can run the bundle here: its target's runner, then our kernels or Core ML if this machine has them.

    torch: opens PyTorch's runner of the decoder, which comes last. Where it is given, the bundle's own graph is left
    out on a GPU that this machine's ONNX Runtime does not drive.
    """
    alone = torch is not None and device == "cuda" and not (manifest.target == "onnx" and runs_cuda())
    runners: list[Runner] = [] if alone else [open_runner(bundle, manifest, device)]
    if device == "cpu" and runs_kernels(bundle, manifest):
        runners.append(OnnxRunner(bundle, manifest, device, kernels=True))
    if manifest.target == "coreml" and runs_core_ml():
        runners.append(CoreMlRunner(bundle, manifest, units))
    if torch is not None:
        runners.append(torch())
    return runners


def runs_cuda() -> bool:
    """Whether this machine's ONNX Runtime runs on an NVIDIA GPU."""
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def runs_kernels(bundle: Path, manifest: Manifest) -> bool:
    """Whether the bundle has a graph for our kernels, and this machine the kernels."""
    from edgesink.runtime.kernels import kernels_graph

    return kernels_graph(bundle, manifest) is not None


def runs_core_ml() -> bool:
    """Whether this machine has a Core ML with states: macOS 15 and later."""
    return sys.platform == "darwin" and int(platform.mac_ver()[0].split(".")[0]) >= 15
