"""A Core ML bundle whose layers are cut into several packages: the same model, run one package behind the other."""

import itertools
import shutil

import numpy as np
import pytest

from edgesink import names
from edgesink.errors import BadBundle, BadOption
from edgesink.export.bundle import export
from edgesink.export.graph import cut
from edgesink.manifest import COREML_PACKAGE, Manifest
from edgesink.mil.structure import check_ring_structure, describe
from edgesink.spec import StreamSpec
from edgesink.verify.bundle import verify_bundle
from edgesink.verify.runners import MilRunner

STREAM = StreamSpec(sinks=4, window=12, max_sinks=8, chunk=5)  # 20 rows in a buffer of 32
RAGGED = [5, 1, 1, 3, 5, 2, 4, 1]  # chunks of 1 are decoded, the others prefilled
TOLERANCE = 1e-5  # the same operations on the same numbers, of logits about 30


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    """bundle(parts, kv_write): the tiny random Llama of 3 layers, exported once for each pair."""
    made = {}

    def make(parts, kv_write="slice"):
        if (parts, kv_write) not in made:
            made[parts, kv_write] = tmp_path_factory.mktemp("parts") / "bundle"
            export(toy.path, made[parts, kv_write], "coreml", STREAM, "fp16", kv_write=kv_write, parts=parts)
        return made[parts, kv_write]

    return make


def logits(bundle, sinks) -> np.ndarray:
    """After every piece of a stream of more than three laps, in float32: [pieces, V]."""
    manifest = Manifest.read(bundle)
    runner = MilRunner(bundle, manifest, "cpu", precision="fp32")
    ids = np.random.default_rng(5).integers(0, manifest.vocab, 3 * STREAM.rows + 7)
    rows, position = [], 0
    for size in itertools.cycle(RAGGED):
        piece = ids[position : position + size]
        rows.append(runner.feed(piece, position, sinks))
        position += len(piece)
        if position == len(ids):
            return np.stack(rows)


def test_layers_are_cut_into_parts_of_nearly_one_length():
    assert cut(30, 1) == [range(0, 30)]
    assert cut(30, 4) == [range(0, 7), range(7, 15), range(15, 22), range(22, 30)]
    assert cut(3, 3) == [range(0, 1), range(1, 2), range(2, 3)]


@pytest.mark.parametrize(("parts", "kv_write"), [(2, "slice"), (3, "slice"), (2, "blend"), (2, "host")])
def test_a_model_in_parts_is_the_model_in_one(bundle, parts, kv_write):
    whole = logits(bundle(1), 4)
    difference = np.abs(logits(bundle(parts, kv_write), 4) - whole)
    assert difference.max() <= TOLERANCE, f"max {difference.max():.1e}, mean {difference.mean():.1e}"


def test_a_part_left_out_would_be_seen(bundle):
    manifest = Manifest.read(bundle(3))
    runner = MilRunner(bundle(3), manifest, "cpu", precision="fp32")
    runner.feed.args[0].pop(1)
    difference = np.abs(runner.feed(np.arange(5), 0, 4) - logits(bundle(1), 4)[0])
    assert difference.max() > 1


@pytest.mark.parametrize("kv_write", ["slice", "host"])
def test_every_part_is_a_ring_of_its_own_layers(bundle, kv_write):
    manifest = Manifest.read(bundle(2, kv_write))
    heads, dim, hidden = (manifest.architecture[name] for name in ("kv_heads", "head_dim", "hidden"))
    assert manifest.coreml_packages == ("model.0.mlpackage", "model.1.mlpackage")
    state_bytes = 0
    for part, (package, layers) in enumerate(zip(manifest.coreml_packages, [1, 2], strict=True)):
        structure = describe(bundle(2, kv_write) / package)
        assert check_ring_structure(structure, read_only=[names.kv_cache(0)] if kv_write == "host" else []) == []
        assert structure.default_function == names.DECODE
        assert structure.metadata[names.PART_KEY] == str(part)
        for name, function in structure.functions.items():
            chunk = {names.DECODE: 1, names.PREFILL: STREAM.chunk}[name]
            ((_, kind),) = function.states
            assert kind.shape == (2 * layers, heads, 32, dim) == manifest.states[part].shape
            inputs, outputs = dict(function.inputs), dict(function.outputs)
            edge = (1, chunk, hidden)
            assert (names.IDS in inputs, names.LOGITS in outputs) == (part == 0, part == 1)
            if part == 0:
                assert (outputs["hidden_out"].dtype, outputs["hidden_out"].shape) == ("fp16", edge)
            else:
                assert (inputs["hidden"].dtype, inputs["hidden"].shape) == ("fp16", edge)
        state_bytes += 2 * np.prod(kind.shape)
    assert state_bytes == manifest.state_bytes


def test_parts_weigh_what_the_whole_weighs_and_a_tied_embedding_twice(bundle):
    whole = describe(bundle(1) / COREML_PACKAGE).weight_bytes
    manifest = Manifest.read(bundle(2))
    parts = [describe(bundle(2) / package).weight_bytes for package in manifest.coreml_packages]
    embedding = 2 * manifest.vocab * manifest.architecture["hidden"]
    assert manifest.architecture["tied"]
    assert sum(parts) == pytest.approx(whole + embedding, rel=0.15)  # and tables of the rotation, and padding
    assert max(parts) < whole
    assert manifest.weight_bytes > sum(parts)


def test_the_bundle_says_that_it_is_cut_and_one_package_is_as_ever(bundle, command):
    assert Manifest.read(bundle(1)).parts == 1
    assert (bundle(1) / COREML_PACKAGE).is_dir()
    assert Manifest.read(bundle(2)).parts == 2
    assert "cut" not in (bundle(1) / "README.md").read_text()
    assert "`model.0.mlpackage` to `model.1.mlpackage`" in (bundle(2) / "README.md").read_text()
    assert "cut into  2 packages" in command("inspect", bundle(2))[1]


def test_verify_runs_all_parts(bundle, toy, tmp_path):
    copy = shutil.copytree(bundle(2), tmp_path / "bundle")
    report, *_ = verify_bundle(copy, toy.path, tokens=60)
    assert report.failures == [], report.whole


@pytest.mark.parametrize(("target", "parts"), [("coreml", 0), ("coreml", -1), ("coreml", 4), ("onnx", 2)])
def test_what_cannot_be_cut_is_refused_before_anything_is_written(toy, tmp_path, target, parts):
    with pytest.raises(BadOption, match="--parts"):
        export(toy.path, tmp_path / "bundle", target, STREAM, "fp16", parts=parts)
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_parts(toy, tmp_path, command):
    out = tmp_path / "bundle"
    export_ = ("export", toy.path, "--target", "coreml", "--window", 12, "--out", out)
    code, _, err = command(*export_, "--parts", 9)
    assert (code, out.exists()) == (1, False)
    assert "--parts 9" in err
    assert command(*export_, "--parts", 3)[0] == 0
    assert sorted(path.name for path in out.glob("model.*")) == [f"model.{i}.mlpackage" for i in range(3)]


@pytest.mark.parametrize("parts", ["0", "4", '"two"', "-1"])
def test_a_manifest_with_impossible_parts_is_refused(bundle, parts):
    text = (bundle(2) / "manifest.json").read_text().replace('"parts": 2', f'"parts": {parts}')
    with pytest.raises(BadBundle, match="parts"):
        Manifest.from_json(text)
