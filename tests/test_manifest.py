"""The manifest: round trip, strictness, and every way a bundle can be damaged."""

import json
from pathlib import Path

import pytest

from edgesink.errors import BadBundle
from edgesink.manifest import FORMAT, BundleFile, Manifest, Parity, describe_file, replace_manifest
from edgesink.spec import Llama3Scaling, ModelSpec, RopeSpec, StreamSpec

ROPE = RopeSpec(10000.0, Llama3Scaling(8.0, 1.0, 4.0, 8192))
MODEL = ModelSpec("toy", "llama", 2, 64, 4, 2, 16, 128, 256, 1e-5, ROPE, True, 512)


def manifest(**changes) -> Manifest:
    values = dict(
        target="onnx", model=MODEL, stream=StreamSpec(4, 28, 16, 8), precision="fp32", weights="as they are",
        state_dtype="float32", bos_id=None, eos_ids=(0, 2), files=(), tools={"onnx": "1.23"},
    )  # fmt: skip
    return Manifest(**(values | changes))


def test_a_manifest_survives_the_round_trip():
    original = manifest(parity=Parity(100, 1e-5, 1e-6, 1.0, True, "onnxruntime", "2026-11-22"))
    assert Manifest.from_json(original.to_json()) == original


def test_options_are_text_in_the_file_and_typed_in_python():
    options = {"kv_write": "host", "vocabulary_bits": "4", "parts": "2"}
    read = Manifest.from_json(manifest(options=options).to_json())
    assert (read.kv_write, read.vocabulary_bits, read.parts) == ("host", 4, 2)
    assert json.loads(read.to_json())["options"] == options
    assert (manifest().kv_write, manifest().vocabulary_bits, manifest().parts) == (None, 8, 1)


def test_state_bytes_are_two_buffers_a_layer_of_rows_by_dimensions():
    # 2 buffers x 2 layers x 2 kv heads x 16 dimensions x (32 + 8 - 1) rows x 4 bytes
    assert manifest().state_bytes == 2 * 2 * 2 * 16 * 39 * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(format=FORMAT + 1), "update edgesink"),
        (lambda data: data.update(format=None), "export the model again"),
        (lambda data: data.update(surprise=1), "unknown field 'surprise'"),
        (lambda data: data["model"].update(surprise=1), "unknown field 'surprise'"),
        (lambda data: data["model"].pop("heads"), "lacks 'heads'"),
        (lambda data: data["model"].update(heads="9"), "expected int"),
        (lambda data: data["model"].update(heads=True), "expected int"),
        (lambda data: data["model"].update(kv_heads=3), "divisible by key/value heads"),
        (lambda data: data.update(target="tflite"), "tflite"),
        (lambda data: data["stream"].update(window=1), "at least one chunk"),
        (lambda data: data.update(options={"kv_write": "scatter"}), "'scatter' kv_write"),
        (lambda data: data.update(options={"vocabulary_bits": "6"}), "'6' vocabulary_bits"),
        (lambda data: data.update(options={"parts": "3"}), "'3' parts"),
        (lambda data: data.update(options={"surprise": "1"}), "unknown option 'surprise'"),
        (lambda data: data.update(files=[{"path": "../x", "bytes": 1, "sha256": ""}]), "inside the bundle"),
        (lambda data: data.update(files=[{"path": "/etc/x", "bytes": 1, "sha256": ""}]), "inside the bundle"),
    ],
)
def test_a_manifest_that_is_not_exactly_right_is_refused(change, message):
    data = json.loads(manifest().to_json())
    change(data)
    with pytest.raises(BadBundle, match=message):
        Manifest.from_json(json.dumps(data))


def test_text_that_is_not_a_manifest_is_refused(tmp_path: Path):
    with pytest.raises(BadBundle, match="not JSON"):
        Manifest.from_json('{"format": 1')
    with pytest.raises(BadBundle, match=r"no manifest.json in"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has 3 bytes"),
        (lambda path: path.write_bytes(b"data"[::-1]), "altered"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage, message):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"data")
    good = manifest(files=(describe_file(tmp_path, path),))
    good.check_files(tmp_path)
    damage(path)
    with pytest.raises(BadBundle, match=message):
        good.check_files(tmp_path)


def test_the_fingerprint_follows_the_model_files_only():
    graph, other = BundleFile("model.onnx", 1, "aa"), BundleFile("model.onnx", 1, "bb")
    text = BundleFile("README.md", 1, "cc")
    assert manifest(files=(graph,)).fingerprint == manifest(files=(graph, text)).fingerprint
    assert manifest(files=(graph,)).fingerprint != manifest(files=(other,)).fingerprint


def test_replacing_a_manifest_leaves_nothing_beside_it(tmp_path: Path):
    replace_manifest(tmp_path, manifest())
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert Manifest.read(tmp_path) == manifest()
