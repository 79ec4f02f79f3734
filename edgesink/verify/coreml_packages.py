"""How the packages of a Core ML bundle are driven: one behind the other, each with a state of its own.

Owns the order of the runs and what goes from one to the next; what runs a package is a value: `EvaluatedPackage` is
our evaluator of MIL, `CoreMlPackage` is Core ML, through coremltools' Python interface to it, on a Mac.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgesink import names
from edgesink.bounded_inputs import bounded_inputs
from edgesink.errors import BadBundle
from edgesink.manifest import Manifest
from edgesink.mil.evaluator import MilEvaluator
from edgesink.mil.structure import check_ring_structure, describe
from edgesink.spec import ComputeUnits


class Package(Protocol):
    """One package in the hands of something that runs it, and its state."""

    def predict(self, inputs: Mapping[str, np.ndarray], function: str) -> Mapping[str, np.ndarray]:
        """Run `function`; its outputs by name. The state goes on."""

    def write(self, state: str, slots: Sequence[int], rows: np.ndarray) -> None:
        """Put rows [2 L, K, T, D] at `slots` of a state: where the package leaves that to its runner."""


def feed_packages(
    packages: Sequence[Package], manifest: Manifest, ids: np.ndarray, position: int, sinks: int
) -> np.ndarray:
    """Run ids (int [T], at most a chunk) that stand at `position` through all packages; float32 [V], after the last."""
    function, inputs = bounded_inputs(manifest, ids, position, sinks)
    rings = [manifest.stream.layer_ring(view, sinks) for view in manifest.views]
    for package in packages:
        outputs = package.predict(inputs, function)
        for view, ring in enumerate(rings):
            if names.new_kv(view) in outputs:  # kv_write "host"
                rows = outputs[names.new_kv(view)][:, :, : len(ids)]
                package.write(names.kv_cache(view), [ring.slot(position + i) for i in range(len(ids))], rows)
        if names.LOGITS not in outputs:
            inputs = {name: value for name, value in inputs.items() if name not in (names.IDS, names.HIDDEN)}
            inputs[names.HIDDEN] = outputs[names.updated(names.HIDDEN)]
    return np.asarray(outputs[names.LOGITS], np.float32).reshape(-1)


def structure_findings(bundle: Path, manifest: Manifest) -> list[str]:
    """What in the bundle's packages contradicts rings kept in the manifest's states, one sentence each."""
    findings = []
    for part, name in enumerate(manifest.coreml_packages):
        states = {state.name: state.shape for state in manifest.states if state.part == part}
        read_only = states if manifest.kv_write == "host" else ()
        found = check_ring_structure(describe(bundle / name), read_only=read_only, states=states)
        findings += [f"{name}: {finding}" for finding in found]
    return findings


class EvaluatedPackage:
    """A package in our evaluator, in the precision "fp16" or "fp32"."""

    def __init__(self, path: Path, precision: str) -> None:
        self._evaluator = MilEvaluator(path, precision)
        self._state = self._evaluator.make_state()

    def predict(self, inputs: Mapping[str, np.ndarray], function: str) -> Mapping[str, np.ndarray]:
        return self._evaluator.predict(inputs, self._state, function)

    def write(self, state: str, slots: Sequence[int], rows: np.ndarray) -> None:
        self._state[state][:, :, slots] = rows

    @property
    def state(self) -> Mapping[str, np.ndarray]:
        """By name, as the last run left it."""
        return self._state


class CoreMlPackage:
    """A package in Core ML: a model for each function, both over the state that the first of them made.

    Raises BadBundle where Core ML cannot load it. Needs macOS 15, the first with states.
    """

    def __init__(self, path: Path, units: ComputeUnits) -> None:
        self._functions = {name: _loaded(path, name, units) for name in (names.DECODE, names.PREFILL)}
        self._state = self._functions[names.DECODE].make_state()

    def predict(self, inputs: Mapping[str, np.ndarray], function: str) -> Mapping[str, np.ndarray]:
        outputs: Mapping[str, np.ndarray] = self._functions[function].predict(dict(inputs), state=self._state)
        return outputs

    def write(self, state: str, slots: Sequence[int], rows: np.ndarray) -> None:
        cache = np.array(self._state.read_state(state))
        cache[:, :, slots] = rows
        self._state.write_state(state, cache)


def _loaded(path: Path, function: str, units: ComputeUnits) -> Any:
    """coremltools' model of one function, compiled for this machine."""
    from coremltools import ComputeUnit
    from coremltools.models import MLModel

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # how coremltools says that Core ML refused
        try:
            return MLModel(str(path), compute_units=ComputeUnit[units.upper()], function_name=function)
        except RuntimeWarning as refusal:
            raise BadBundle(
                f"Core ML cannot load {function!r} of {path} ({refusal})", "", "try other --compute-units"
            ) from None
