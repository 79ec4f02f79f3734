"""The manifest: round trip, strictness, and every way a bundle can be damaged."""

import json
import os
from pathlib import Path

import pytest

from edgesink.errors import BadBundle
from edgesink.manifest import FORMAT, BundleFile, Manifest, Parity, State, describe_file, replace_manifest
from edgesink.spec import LayerRing, StreamSpec

FILES = ("model.onnx", "model.onnx.data", "tokenizer.json")
STREAM, OWN_WINDOW = StreamSpec(4, 28, 16, 8), LayerRing(8, False)


def state(name: str, rows: int = 39, view: int = 0) -> State:
    return State(name, (1, 2, rows, 16), "float32", view)


def manifest(**changes) -> Manifest:
    values = dict(
        target="onnx", name="toy", family="llama", vocab=256, stream=STREAM, views=(LayerRing(32, True),),
        states=tuple(map(state, ("key_0", "value_0", "key_1", "value_1"))), precision="fp32", weights="as they are",
        bos_id=None, eos_ids=(0, 2), turns=None, no_turns="no template", files=(), tools={"onnx": "1.23"},
        architecture={"layers": 2},
    )  # fmt: skip
    return Manifest(**(values | changes))


def two_views() -> Manifest:
    """A layer of the stream's ring and one of its own window of 8 tokens."""
    own = (state("key_1", 15, 1), state("value_1", 15, 1))
    return manifest(views=(LayerRing(32, True), OWN_WINDOW), states=(state("key_0"), state("value_0"), *own))


def test_a_manifest_survives_the_round_trip():
    parity = Parity(100, 1e-5, 1e-6, 1.0, True, "onnxruntime", "2026-11-22")
    for original in (manifest(parity=parity), two_views()):
        assert Manifest.from_json(original.to_json()) == original


def test_state_bytes_are_those_of_every_state_as_its_ring_has_rows():
    # 4 buffers x 2 heads x 16 dimensions x (32 + 8 - 1) rows x 4 bytes
    assert manifest().state_bytes == 4 * 2 * 16 * 39 * 4
    assert two_views().state_bytes == 2 * 2 * 16 * 39 * 4 + 2 * 2 * 16 * 15 * 4


def test_a_runner_reads_a_family_that_nobody_knows_yet():
    data = json.loads(manifest().to_json())
    data["architecture"] = {"views": "none", "a thing to come": [{"layers": -1}]}
    assert Manifest.from_json(json.dumps(data)).architecture == data["architecture"]


# Every fault that Swift refuses as well, with its words: tests/golden/manifest.json.
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(format=FORMAT + 1), "update edgesink"),
        (lambda data: data.update(format=FORMAT - 1), f"expected format {FORMAT}; export the model again"),
        (lambda data: data.update(format=None), "export the model again"),
        (lambda data: data.update(surprise=1), "unknown field 'surprise'"),
        (lambda data: data["stream"].update(surprise=1), "unknown field 'surprise'"),
        (lambda data: data["states"][0].update(surprise=1), "unknown field 'surprise'"),
        (lambda data: data.pop("vocab"), "lacks 'vocab'"),
        (lambda data: data["stream"].pop("max_sinks"), "lacks 'max_sinks'"),
        (lambda data: data["states"][0].pop("part"), "lacks 'part'"),
        (lambda data: data.update(vocab=True), "expected int"),
        (lambda data: data.update(vocab=1 << 40), "a vocabulary of 1099511627776"),
        (lambda data: data.update(target="tflite"), "tflite"),
        (lambda data: data["stream"].update(window=1), "at least one chunk"),
        (lambda data: data["stream"].update(window=10**30), "2147483648 or less"),
        (lambda data: data.update(kv_write="scatter"), "'scatter'"),
        (lambda data: data.update(kv_write="host"), "'host' for onnx"),
        (lambda data: data.update(vocabulary_bits=6), "vocabulary_bits 6"),
        (lambda data: data.update(parts=3), "some of every part"),
        (lambda data: data.update(parts=10**12), "some of every part"),
        (lambda data: data.update(eos_ids=[256]), "token id 256; expected 0 to 255"),
        (lambda data: data.update(bos_id=-1), "token id -1"),
        (lambda data: data["views"][0].update(capacity=31), "with sinks of 31 tokens; expected 32"),
        (lambda data: data["views"][1].update(capacity=7), "without sinks of 7 tokens; expected 8 to 31"),
        (lambda data: data["views"].append({"capacity": 9, "sinks": False}), "states of 2 of 3 views"),
        (lambda data: data["states"][3].update(view=0), "15 rows; expected 39, its ring's"),
        (lambda data: data["states"][3].update(view=2), "of view 2, part 0; expected one that there is"),
        (lambda data: data["states"][3].update(name="key_1"), "two states of one name"),
        (lambda data: data["states"][3].update(dtype="float16"), "states of two types"),
        (lambda data: data["states"][3].update(shape=[1, 3, 15, 16]), "expected that of its view"),
        (lambda data: data["states"][3].update(shape=[1, 2, 15, 10**30]), "sizes that fit a machine"),
        (lambda data: data["states"][3].update(shape=[1, 2, 15]), "expected four sizes"),
        (lambda data: data.update(states=[]), "0 states"),
        (lambda data: data.update(files=[{"path": "../x", "bytes": 1, "sha256": ""}]), "inside the bundle"),
        (lambda data: data.update(files=[{"path": "/etc/x", "bytes": 1, "sha256": ""}]), "inside the bundle"),
        (lambda data: data.update(files=[{"path": "x", "bytes": -1, "sha256": ""}]), "x of -1 bytes"),
    ],
)
def test_a_manifest_that_is_not_exactly_right_is_refused(change, message):
    data = json.loads(two_views().to_json())
    change(data)
    with pytest.raises(BadBundle, match=message):
        Manifest.from_json(json.dumps(data))


@pytest.mark.parametrize("where", [(), ("stream",), ("views", 0), ("states", 0), ("parity",), ("files", 0)], ids=str)
def test_every_field_must_be_there(where):
    parity = Parity(100, 1e-5, 1e-6, 1.0, True, "onnxruntime", "2026-11-22")
    whole = json.loads(manifest(parity=parity, files=(BundleFile("x", 1, ""),)).to_json())

    def inner(data):
        for key in where:
            data = data[key]
        return data

    for name in set(inner(whole)) - {"format", "sampling"}:  # the latter is new in this format
        data = json.loads(json.dumps(whole))
        del inner(data)[name]
        with pytest.raises(BadBundle, match=f"lacks '{name}'"):
            Manifest.from_json(json.dumps(data))


def test_text_that_is_not_a_manifest_is_refused(tmp_path: Path):
    with pytest.raises(BadBundle, match="not JSON"):
        Manifest.from_json('{"format": 3')
    with pytest.raises(BadBundle, match="not JSON"):
        Manifest.from_json('{"format": 3, "architecture": ' + "[" * 100_000)
    with pytest.raises(BadBundle, match=r"no manifest.json in"):
        Manifest.read(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b'{"format": "\xff"}')
    with pytest.raises(BadBundle, match="not JSON"):
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
    good = with_files(tmp_path)
    good.check_files(tmp_path)
    damage(tmp_path / "model.onnx")
    with pytest.raises(BadBundle, match=message):
        good.check_files(tmp_path)


def test_a_digest_from_a_damaged_record_does_not_condemn_a_file(tmp_path: Path):
    good = with_files(tmp_path)
    good.check_files(tmp_path, lambda path: "0" * 64)
    (tmp_path / "model.onnx").write_bytes(b"atad")
    with pytest.raises(BadBundle, match="altered"):
        good.check_files(tmp_path, lambda path: "0" * 64)


def with_files(folder: Path) -> Manifest:
    for name in FILES:
        (folder / name).write_bytes(b"data")
    return manifest(files=tuple(describe_file(folder, folder / name) for name in FILES))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_the_manifest_does_not_name_is_not_run_unchecked(tmp_path: Path, name):
    whole = with_files(tmp_path)
    files = tuple(file for file in whole.files if file.path != name)
    with pytest.raises(BadBundle, match=f"does not name {name}"):
        manifest(files=files).check_files(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_a_link_may_not_leave_the_bundle(tmp_path: Path):
    bundle, path = tmp_path / "bundle", tmp_path / "bundle" / "tokenizer.json"
    bundle.mkdir()
    good = with_files(bundle)
    path.unlink()
    path.symlink_to("model.onnx")
    good.check_files(bundle)
    (tmp_path / "elsewhere").write_bytes(b"data")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadBundle, match="a link that leaves the bundle"):
        good.check_files(bundle)
    (tmp_path / "link").symlink_to(bundle)
    path.unlink()
    path.write_bytes(b"data")
    good.check_files(tmp_path / "link")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        (manifest().to_json().replace("{", '{"format": 2,', 1), "'format' stands in it twice"),
        ("9" * 5000, "not JSON"),
    ],
    ids=["deep", "twice", "long number"],
)
def test_json_that_says_two_things_or_none_is_refused(text, message):
    with pytest.raises(BadBundle, match=message):
        Manifest.from_json(text)


def test_the_fingerprint_follows_the_model_files_only():
    graph, other = BundleFile("model.onnx", 1, "aa"), BundleFile("model.onnx", 1, "bb")
    text = BundleFile("README.md", 1, "cc")
    assert manifest(files=(graph,)).fingerprint == manifest(files=(graph, text)).fingerprint
    assert manifest(files=(graph,)).fingerprint != manifest(files=(other,)).fingerprint


def test_replacing_a_manifest_leaves_nothing_beside_it(tmp_path: Path):
    replace_manifest(tmp_path, manifest())
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert Manifest.read(tmp_path) == manifest()
