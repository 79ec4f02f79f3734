"""How the packages of a Core ML bundle are driven: one behind the other, each with a state of its own.

Owns the order of the runs and what goes from one to the next; what runs a package is a value. `EvaluatedPackage` is
our evaluator of MIL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from edgesink import names
from edgesink.bounded_inputs import bounded_inputs
from edgesink.mil_evaluator import MilEvaluator
from edgesink.spec import StreamSpec


class Package(Protocol):
    """One package in the hands of something that runs it, and its state."""

    def predict(self, inputs: Mapping[str, np.ndarray], function: str) -> Mapping[str, np.ndarray]:
        """Run `function`; its outputs by name. The state goes on."""

    def write(self, slots: Sequence[int], rows: np.ndarray) -> None:
        """Put rows [2 layers, K, T, D] at `slots` of the state: where the package leaves that to its runner."""


def feed_packages(
    packages: Sequence[Package], stream: StreamSpec, ids: np.ndarray, position: int, sinks: int
) -> np.ndarray:
    """Run ids (int [T], at most a chunk) that stand at `position` through all packages; float32 [V], after the last."""
    function, inputs = bounded_inputs(stream, ids, position, sinks)
    ring = stream.ring(sinks)
    for package in packages:
        outputs = package.predict(inputs, function)
        if names.NEW_KV in outputs:  # kv_write "host"
            rows = outputs[names.NEW_KV][:, :, : len(ids)]
            package.write([ring.slot(position + i) for i in range(len(ids))], rows)
        if names.LOGITS not in outputs:
            inputs = {name: value for name, value in inputs.items() if name not in (names.IDS, names.HIDDEN)}
            inputs[names.HIDDEN] = outputs[names.updated(names.HIDDEN)]
    return np.asarray(outputs[names.LOGITS], np.float32).reshape(-1)


class EvaluatedPackage:
    """A package in our evaluator, in the precision "fp16" or "fp32"."""

    def __init__(self, path: Path, precision: str) -> None:
        self._evaluator = MilEvaluator(path, precision)
        self._state = self._evaluator.make_state()

    def predict(self, inputs: Mapping[str, np.ndarray], function: str) -> Mapping[str, np.ndarray]:
        return self._evaluator.predict(inputs, self._state, function)

    def write(self, slots: Sequence[int], rows: np.ndarray) -> None:
        self._state[names.KV_CACHE][:, :, slots] = rows
