"""What runs a bundle under examination: a target and a device are values that choose one of these.

Owns the one call that every artefact has in common, `feed`. A target without a runner here cannot be verified on this
machine; the Core ML program is read by our own evaluator of MIL, which shows what it says and not what a phone does.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np

from edgesink import names
from edgesink.bounded_inputs import bounded_inputs
from edgesink.errors import BadBundle, BadOption
from edgesink.manifest import COREAI_MODEL, COREML_PACKAGE, Manifest


class Runner(Protocol):
    """An artefact in the hands of something that runs it."""

    name: str  # "onnxruntime 1.32.0 cpu"

    def feed(self, ids: np.ndarray, position: int, sinks: int) -> np.ndarray:
        """Run ids (int64 [T], at most a chunk) that stand at `position`, …; float32 [V], after the last."""


class OnnxRunner:
    """ONNX Runtime; the state stays on its device."""

    def __init__(self, bundle: Path, manifest: Manifest, device: str) -> None:
        from edgesink.runtime.backends import OnnxBackend

        self._backend = OnnxBackend(bundle, manifest, provider=device)
        self.name = f"onnxruntime {version('onnxruntime')} {device}"

    def feed(self, ids: np.ndarray, position: int, sinks: int) -> np.ndarray:
        self._backend.feed(ids, position, sinks)
        return self._backend.logits.copy()


class MilRunner:
    """Our evaluator of the Core ML program, rounding to fp16 wherever the program does."""

    def __init__(self, bundle: Path, manifest: Manifest, device: str) -> None:
        from edgesink.mil_evaluator import MilEvaluator

        if device != "cpu":
            raise BadOption(f"device {device} for target {manifest.target}", "cpu")
        self._stream = manifest.stream
        self._evaluator = MilEvaluator(bundle / COREML_PACKAGE, "fp16")
        self._state = self._evaluator.make_state()
        self.name = "MIL evaluator fp16"

    def feed(self, ids: np.ndarray, position: int, sinks: int) -> np.ndarray:
        function, inputs = bounded_inputs(self._stream, ids, position, sinks)
        outputs = self._evaluator.predict(inputs, self._state, function)
        if names.NEW_KV in outputs:  # kv_write "host": the runner writes the state
            ring = self._stream.ring(sinks)
            slots = [ring.slot(position + i) for i in range(len(ids))]
            self._state[names.KV_CACHE][:, :, slots] = outputs[names.NEW_KV][:, :, : len(ids)]
        return np.asarray(outputs[names.LOGITS], np.float32).reshape(-1)


class CoreAiRunner:
    """Apple's interpreter of Core AI programs."""

    def __init__(self, bundle: Path, manifest: Manifest, device: str) -> None:
        from edgesink.export.to_coreai import CoreAiStream

        if device != "cpu":
            raise BadOption(f"device {device} for target {manifest.target}", "cpu")
        self._stream = CoreAiStream(bundle / COREAI_MODEL, manifest)
        self.name = f"Core AI interpreter {version('coreai-core')}"

    def feed(self, ids: np.ndarray, position: int, sinks: int) -> np.ndarray:
        return self._stream.feed(ids, position, sinks)


RUNNERS: dict[str, Callable[[Path, Manifest, str], Runner]] = {
    "onnx": OnnxRunner,
    "coreml": MilRunner,
    "coreai": CoreAiRunner,
}


def open_runner(bundle: Path, manifest: Manifest, device: str = "cpu") -> Runner:
    """The runner of the bundle's target on `device`; MissingPackage where the machine lacks it."""
    if manifest.target not in RUNNERS:
        raise BadBundle(f"a bundle for {manifest.target}", f"one for {' or '.join(RUNNERS)}, which can be run here")
    return RUNNERS[manifest.target](bundle, manifest, device)
