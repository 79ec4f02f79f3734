"""A calibration that one bundle was measured for, put into another of the model: where it fits, and where not."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest
from conftest import make_toy

import edgesink
from edgesink.errors import BadOption
from edgesink.export.bundle import export
from edgesink.manifest import CALIBRATION, GOLDEN_STREAM, TOKENIZER, Manifest
from edgesink.memory import calibrate, calibration
from edgesink.memory.borrowing import LEAST, alike, check_same_model, probe_ids
from edgesink.memory.calibration import Calibration, Numbers
from edgesink.memory.memory import Memory
from edgesink.spec import StreamSpec
from edgesink.verify.value_rows import value_rows

SPEC = StreamSpec(sinks=4, window=92, max_sinks=8, chunk=32)
OTHERS = [
    ("coreml", "fp16", 1),
    ("coreml", "fp16", 2),
    ("coreml", "pal4", 1),
    ("coreai", "fp16", 1),
    ("onnx", "fp32", 1),
]


@pytest.fixture(scope="module")
def exported(toy, tmp_path_factory):
    """exported(target, precision, seed, **more) -> a bundle of the toy, or of one with other weights, made once."""
    folder = tmp_path_factory.mktemp("borrowed")

    @functools.cache
    def bundle(target, precision, seed=0, **more):
        out = folder / f"{target}-{precision}-{seed}-{len(more)}"
        model = toy if seed == 0 else make_toy(folder / f"toy-{out.name}", seed=seed)
        export(model.path, out, target, SPEC, precision, **more)
        return out

    return bundle


@pytest.fixture
def copy(exported, tmp_path):
    """The same, a copy of it that may be written to."""
    return lambda *which, **more: shutil.copytree(exported(*which, **more), tmp_path / "other")


@pytest.fixture(scope="module")
def measured(exported):
    """The bundle that is calibrated."""
    return exported("onnx", "int4")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGESINK_CACHE", str(tmp_path / "cache"))


def made_for(manifest):
    """A calibration of the toy that nobody measured."""
    draw, numbers = np.random.default_rng(3), Numbers(2, 1, 0.1, 0.2, 0.3, 0.5, 0.25)
    arrays = [draw.normal(size=shape).astype(np.float32) for shape in (32, 32, 32, (2, 32), 2)]
    return Calibration(calibration.name_of(manifest, "00ff"), numbers, *arrays)


@pytest.fixture
def calibrated(measured):
    """The bundle, with a calibration in the cache."""
    manifest = Manifest.read(measured)
    calibration.write(made_for(manifest), calibration.place_of(manifest))
    return measured


def lend(command, measured, bundle):
    return command("memory", "calibrate", measured, "--for", bundle)


@pytest.mark.parametrize(("target", "precision", "parts"), OTHERS)
def test_it_is_put_into_the_folder_of_another_bundle_of_the_model_and_read_there(
    command, copy, calibrated, target, precision, parts
):
    if target == "coreai":
        pytest.importorskip("coreai_torch")
    bundle = copy(target, precision, **({"parts": parts} if parts > 1 else {}))
    before = Manifest.read(bundle)
    code, out, err = lend(command, calibrated, bundle)
    assert (code, "alike" in out) == (0, True), err
    after = Manifest.read(bundle)
    after.check_files(bundle)
    assert after.fingerprint == before.fingerprint
    assert {file.path for file in after.files} - {file.path for file in before.files} == {CALIBRATION}
    assert dataclasses.replace(after, files=before.files) == before
    mine, theirs = made_for(Manifest.read(calibrated)), calibration.read(after, bundle)
    assert theirs.name == f"{after.fingerprint[:16]}:00ff"
    assert theirs.numbers == mine.numbers
    assert all(np.array_equal(getattr(theirs, name), getattr(mine, name)) for name in calibration.ARRAYS)
    assert (bundle / CALIBRATION).stat().st_mode == (bundle / TOKENIZER).stat().st_mode, "who reads one reads the other"
    assert command("inspect", bundle)[0] == 0
    assert lend(command, calibrated, bundle)[0] == 0, "again"
    assert [file.path for file in Manifest.read(bundle).files].count(CALIBRATION) == 1


def test_a_model_that_was_not_measured_yet_is_measured_once_and_keeps_the_result(command, copy, measured, monkeypatch):
    bundle, times = copy("onnx", "fp32"), []

    def measure(stream, report):
        times.append(stream.bundle)
        return made_for(stream.manifest)

    monkeypatch.setattr(calibrate, "calibrate", measure)
    for _ in range(2):
        code, out, _ = command("memory", "calibrate", measured, "--for", bundle, "--json")
        said = json.loads(out)
        assert (code, said["file"], said["layer"]) == (0, str(bundle / CALIBRATION), 2)
        assert 0.9 < said["likeness"] < 1
    assert times == [measured]
    assert calibration.read(Manifest.read(measured)).name == made_for(Manifest.read(measured)).name


@pytest.mark.parametrize(("target", "precision"), [("coreml", "fp16"), ("onnx", "int4")])
def test_a_bundle_with_other_weights_is_refused_and_stays_as_it_was(command, copy, calibrated, target, precision):
    bundle = copy(target, precision, 1)
    before = (bundle / "manifest.json").read_bytes()
    code, out, err = lend(command, calibrated, bundle)
    assert (code, out) == (1, "")
    assert f"expected {LEAST} or more" in err
    assert (bundle / "manifest.json").read_bytes() == before
    assert not (bundle / CALIBRATION).exists()


def test_other_bits_of_the_same_weights_are_alike_and_other_weights_are_not(exported, measured):
    def rows(seed):
        bundle = exported("coreml", "fp16", seed)
        return value_rows(bundle, Manifest.read(bundle), range(3), ids)

    stream = edgesink.load(measured)
    ids = probe_ids(stream.tokenizer, stream.manifest, stream.manifest)
    stream.feed(ids.tolist())
    mine = {layer: stream.values(layer, 0, len(ids)) for layer in range(3)}
    same, other = rows(0), rows(1)
    assert all(alike(mine[layer], same[layer]) > 0.85 for layer in mine)
    assert all(abs(alike(mine[layer], other[layer])) < 0.2 for layer in mine)
    assert all(alike(mine[layer], mine[(layer + 1) % 3]) < 0.2 for layer in mine), "and other layers neither"


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ({"architecture": {"heads": 3}}, "another architecture"),
        ({"vocab": 999}, "another vocabulary"),
        ({"files": ()}, "another tokenizer"),
        ({"turns": None, "no_turns": "it is none"}, "another way to write turns"),
        ({"sink_token_id": 7}, "other first tokens"),
    ],
)
def test_a_bundle_of_another_model_is_refused_by_what_differs(measured, field, what):
    manifest = Manifest.read(measured)
    check_same_model(manifest, dataclasses.replace(manifest, name="of another name"))
    with pytest.raises(BadOption, match=f"with {what} than"):
        check_same_model(manifest, dataclasses.replace(manifest, **field))


def test_a_bundle_whose_manifest_does_not_say_which_layers_are_where_is_refused(command, copy, calibrated):
    bundle = copy("coreml", "fp16", parts=2)
    manifest = Manifest.read(bundle)
    older = dataclasses.replace(
        manifest, states=tuple(dataclasses.replace(one, layers=None) for one in manifest.states)
    )
    (bundle / "manifest.json").write_text(older.to_json(), encoding="utf-8")
    code, _, err = lend(command, calibrated, bundle)
    assert (code, "does not say which layers are in which" in err) == (1, True)


def test_a_bundle_that_cannot_be_measured_here_says_how_it_is_calibrated(command, exported):
    bundle = exported("coreml", "fp16")
    code, out, err = command("memory", "calibrate", bundle)
    assert (code, out) == (1, "")
    assert f"edgesink memory calibrate MODEL --for {bundle}" in err


def test_what_is_no_bundle_or_a_damaged_one_is_refused(command, copy, calibrated, tmp_path):
    code, _, err = lend(command, calibrated, tmp_path / "nowhere")
    assert (code, "no manifest.json" in err) == (1, True)
    bundle = copy("onnx", "fp32")
    with open(bundle / "model.onnx", "ab") as file:
        file.write(b"x")
    assert lend(command, calibrated, bundle)[0] == 1


def test_a_conversation_takes_the_one_in_the_folder_where_the_cache_has_none(command, copy, calibrated, tmp_path):
    bundle = copy("onnx", "fp32")
    lend(command, calibrated, bundle)
    manifest = Manifest.read(bundle)
    memory = Memory(tmp_path / "talk.memory")
    chat = edgesink.Chat(edgesink.load(bundle), pin="none", memory=memory)
    list(chat.answer("Hello there.", 2))
    assert memory._calibration.name == calibration.read(manifest, bundle).name == calibration.name_of(manifest, "00ff")
    own = dataclasses.replace(made_for(manifest), name=calibration.name_of(manifest, "beef"))
    calibration.write(own, calibration.place_of(manifest))
    assert calibration.read(manifest, bundle).name == own.name, "that of the cache was measured with the bundle itself"
    memory.close()


def test_a_damaged_one_in_the_folder_is_refused_and_one_that_the_manifest_does_not_name_is_not_opened(
    command, copy, calibrated
):
    bundle = copy("onnx", "fp32")
    (bundle / CALIBRATION).write_bytes(b"nobody vouches for it")
    manifest = Manifest.read(bundle)
    assert calibration.read(manifest, bundle) is None
    edgesink.load(bundle)
    lend(command, calibrated, bundle)
    (bundle / CALIBRATION).write_bytes(b"x")
    code, _, err = command("inspect", bundle)
    assert (code, CALIBRATION in err) == (1, True)


def test_the_golden_tokens_stay_in_the_manifest_beside_it(toy, copy, calibrated, command):
    bundle = copy("onnx", "fp32")
    lend(command, calibrated, bundle)
    code, out, err = command("verify", bundle, "--model", toy.path, "--tokens", 30)
    assert code == 0, out + err
    assert {CALIBRATION, GOLDEN_STREAM} <= {file.path for file in Manifest.read(bundle).files}
    lend(command, calibrated, bundle)
    assert {CALIBRATION, GOLDEN_STREAM} <= {file.path for file in Manifest.read(bundle).files}
    Manifest.read(bundle).check_files(bundle)


@pytest.mark.slow
def test_the_rows_of_a_real_model_are_alike_in_other_bits(command, smollm2, smollm2_bundles, tmp_path):
    measured, bundle = smollm2_bundles("int4", StreamSpec.fitted(window=252)), tmp_path / "coreml"
    export(smollm2, bundle, "coreml", StreamSpec.fitted(window=252, target="coreml"), "pal4")
    manifest, numbers = Manifest.read(measured), Numbers(21, 20, 0.1, 0.2, 0.3, 0.5, 0.25)
    arrays = [np.zeros(shape, np.float32) for shape in (192, 192, 192, (2, 192), 2)]
    made = Calibration(calibration.name_of(manifest, "00ff"), numbers, *arrays)
    calibration.write(made, calibration.place_of(manifest))
    code, out, err = command("memory", "calibrate", measured, "--for", bundle, "--json")
    assert code == 0, err
    assert 0.7 < json.loads(out)["likeness"] < 0.95
    assert calibration.read(Manifest.read(bundle), bundle).numbers == numbers
