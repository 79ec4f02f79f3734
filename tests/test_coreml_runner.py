"""What verify asks of Core ML on a Mac, shown with a stand-in for coremltools' models; on a Mac, with themselves."""

import dataclasses
import json
import platform
import shutil
import sys
import warnings
from typing import ClassVar

import numpy as np
import pytest
from coremltools import ComputeUnit
from coremltools.proto import Model_pb2

from edgesink import names
from edgesink.errors import BadBundle
from edgesink.export.bundle import export
from edgesink.manifest import Manifest, describe_file, replace_manifest
from edgesink.mil.evaluator import MilEvaluator
from edgesink.spec import StreamSpec
from edgesink.verify import runners
from edgesink.verify.coreml_packages import CoreMlPackage
from edgesink.verify.runners import CoreMlRunner, MilRunner

STREAM = StreamSpec(sinks=3, window=13, max_sinks=8, chunk=5)
PIECES = [5, 1, 3, 1, 1, 5, 4, 5, 1, 5]  # round the ring of 17 and on


class StandInState:
    """An MLState: arrays by name, copied out and in."""

    def __init__(self, arrays):
        self.arrays = arrays

    def read_state(self, name):
        return self.arrays[name].copy()

    def write_state(self, name, value):
        assert value.dtype == np.float16
        assert value.shape == self.arrays[name].shape
        self.arrays[name][...] = value


class StandIn:
    """coremltools.models.MLModel as far as it is asked, over our evaluator; refuses what Core ML would not be given."""

    made: ClassVar[list] = []
    units = ComputeUnit.CPU_AND_GPU

    def __init__(self, model, compute_units=ComputeUnit.ALL, function_name=None):
        assert isinstance(model, str)
        assert compute_units is self.units
        self.evaluator, self.function = MilEvaluator(model, "fp16"), function_name
        self.states, self.predictions = [], 0
        StandIn.made.append(self)

    def make_state(self):
        self.states.append(StandInState(self.evaluator.make_state()))
        return self.states[-1]

    def predict(self, data, state=None):
        assert type(data) is dict
        declared = self.evaluator.signature(self.function).inputs
        assert data.keys() == declared.keys()
        for name, array in data.items():
            expected = {"int32": "int32", "fp16": "float16"}[declared[name].dtype]
            assert (str(array.dtype), array.shape) == (expected, declared[name].shape), name
        self.predictions += 1
        return self.evaluator.predict(data, state.arrays, self.function)


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr("coremltools.models.MLModel", StandIn)
    monkeypatch.setattr(StandIn, "made", [])
    return StandIn


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    """bundle(parts, kv_write): the toy, exported once for each pair."""
    made = {}

    def make(parts=1, kv_write="slice"):
        if (parts, kv_write) not in made:
            made[parts, kv_write] = tmp_path_factory.mktemp("mac") / "bundle"
            export(toy.path, made[parts, kv_write], "coreml", STREAM, "fp16", kv_write=kv_write, parts=parts)
        return made[parts, kv_write]

    return make


def fed(runner) -> np.ndarray:
    """The logits after every piece of one stream, [pieces, V]."""
    ids = np.random.default_rng(3).integers(0, 258, sum(PIECES))
    ends = np.cumsum(PIECES)
    return np.stack([runner.feed(ids[end - n : end], end - n, 3) for end, n in zip(ends, PIECES, strict=True)])


@pytest.mark.parametrize(("parts", "kv_write"), [(1, "slice"), (1, "host"), (2, "slice")])
def test_core_ml_is_given_what_the_functions_declare_over_one_state_a_package(bundle, stand_in, parts, kv_write):
    manifest = Manifest.read(bundle(parts, kv_write))
    runner = CoreMlRunner(bundle(parts, kv_write), manifest, "cpu_and_gpu")
    logits = fed(runner)
    assert [model.function for model in stand_in.made] == [names.DECODE, names.PREFILL] * parts
    assert [len(model.states) for model in stand_in.made] == [1, 0] * parts, "both functions go on from one state"
    assert [model.predictions for model in stand_in.made] == [PIECES.count(1), len(PIECES) - PIECES.count(1)] * parts
    assert np.array_equal(logits, fed(MilRunner(bundle(parts, kv_write), manifest, "cpu")))
    assert runner.name.startswith("Core ML cpu_and_gpu")


@pytest.mark.parametrize("units", ["cpu_only", "cpu_and_gpu", "cpu_and_ne", "all"])
def test_the_compute_units_are_coremltools_own(bundle, stand_in, monkeypatch, units):
    monkeypatch.setattr(StandIn, "units", ComputeUnit[units.upper()])
    CoreMlPackage(bundle() / "model.mlpackage", units)


def test_on_a_mac_verify_runs_both_and_the_manifest_has_core_mls_result(bundle, toy, stand_in, command, monkeypatch):
    monkeypatch.setattr(runners, "runs_core_ml", lambda: True)
    code, out, err = command("verify", bundle(), "--model", toy.path, "--tokens", 60, "--json")
    assert code == 0, err
    data = json.loads(out)
    assert data["parity"]["runner"].startswith("MIL evaluator")
    assert data["core_ml"]["parity"]["runner"].startswith("Core ML")
    assert data["core_ml"]["failures"] == []
    assert Manifest.read(bundle()).parity.runner.startswith("Core ML")


def test_a_core_ml_that_computes_something_else_is_reported(bundle, toy, stand_in, command, monkeypatch):
    monkeypatch.setattr(runners, "runs_core_ml", lambda: True)
    exact = StandIn.predict

    def predict(model, data, state=None):
        outputs = exact(model, data, state)
        return {name: array[..., ::-1] for name, array in outputs.items()}

    monkeypatch.setattr(StandIn, "predict", predict)
    code, out, err = command("verify", bundle(), "--model", toy.path, "--tokens", 60)
    assert code == 1
    first, _, second = out.partition("\n\n")
    assert first.endswith("passed"), "the evaluator finds the package right"
    assert second.startswith("Core ML")
    assert "FAILED" in second
    assert "above" in err
    assert Manifest.read(bundle()).parity.passed is False


def test_a_package_that_is_not_built_as_a_ring_fails_by_name_though_it_computes_well(bundle, toy, tmp_path, command):
    spoilt = shutil.copytree(bundle(), tmp_path / "bundle")
    model = spoilt / "model.mlpackage" / "Data" / "com.apple.CoreML" / "model.mlmodel"
    saved = Model_pb2.Model.FromString(model.read_bytes())
    saved.specificationVersion = 8
    model.write_bytes(saved.SerializeToString())
    manifest = Manifest.read(spoilt)
    files = tuple(describe_file(spoilt, spoilt / file.path) for file in manifest.files)
    replace_manifest(spoilt, dataclasses.replace(manifest, files=files))
    code, out, err = command("verify", spoilt, "--model", toy.path, "--tokens", 40)
    assert code == 1
    assert "FAILED: model.mlpackage: specification version 8, expected 9" in out
    assert "specification version 8" in err
    assert Manifest.read(spoilt).parity.passed is False


def test_off_a_mac_core_ml_is_not_asked(bundle, toy, stand_in, command):
    if runners.runs_core_ml():
        pytest.skip("this is a Mac")
    code, out, _ = command("verify", bundle(), "--model", toy.path, "--tokens", 40, "--json")
    assert code == 0
    assert "core_ml" not in json.loads(out)
    assert stand_in.made == []


@pytest.mark.parametrize(
    ("system", "release", "runs"), [("darwin", "15.1", True), ("darwin", "14.7.1", False), ("linux", "", False)]
)
def test_core_ml_with_states_came_with_macos_15(monkeypatch, system, release, runs):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "mac_ver", lambda: (release, ("", "", ""), ""))
    assert runners.runs_core_ml() is runs


def test_a_package_that_core_ml_refuses_is_no_bug_of_ours(bundle, monkeypatch):
    def refusing(*_, **__):
        warnings.warn("You will not be able to run predict() on this Core ML model.", RuntimeWarning, stacklevel=1)

    monkeypatch.setattr("coremltools.models.MLModel", refusing)
    with pytest.raises(BadBundle, match="cannot load 'decode'"):
        CoreMlPackage(bundle() / "model.mlpackage", "all")


@pytest.mark.macos
@pytest.mark.skipif(not runners.runs_core_ml(), reason="needs Core ML of macOS 15")
@pytest.mark.parametrize("units", ["cpu_only", "cpu_and_gpu"])
@pytest.mark.parametrize(("parts", "kv_write"), [(1, "slice"), (1, "blend"), (1, "host"), (2, "slice")])
def test_core_ml_computes_what_the_evaluator_computes(bundle, units, parts, kv_write):
    manifest = Manifest.read(bundle(parts, kv_write))
    expected = fed(MilRunner(bundle(parts, kv_write), manifest, "cpu"))
    difference = np.abs(fed(CoreMlRunner(bundle(parts, kv_write), manifest, units)) - expected)
    assert difference.max() < 1.0, f"max {difference.max():.1e}, mean {difference.mean():.1e}"
