"""An export is whole or not at all."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgesink import load
from edgesink.errors import BadBundle, BadCheckpoint, BadOption, EdgesinkError, NoSpace
from edgesink.export import bundle as bundle_module
from edgesink.export.bundle import export
from edgesink.manifest import FORMAT, Manifest, replace_manifest
from edgesink.spec import LayerRing, StreamSpec

SPEC = StreamSpec(3, 13, 8, 5)


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_bundle_holds_what_its_manifest_says(toy, tmp_path):
    out = tmp_path / "bundle"
    manifest = export(toy.path, out, "onnx", SPEC, "fp32")
    assert Manifest.read(out) == manifest
    assert contents(out) == [
        "README.md", "chat_template.jinja", "manifest.json", "model.onnx", "model.onnx.data", "tokenizer.json",
    ]  # fmt: skip
    assert contents(tmp_path) == ["bundle"]
    manifest.check_files(out)
    assert (len(manifest.states), manifest.stream, manifest.eos_ids) == (6, SPEC, (0,))


def test_the_manifest_has_a_view_for_each_ring_and_the_rows_of_every_state(two_views, tmp_path):
    manifest = Manifest.read(two_views.bundle(tmp_path / "bundle", SPEC))
    assert manifest.views == (LayerRing(16, True), LayerRing(8, False))
    assert [state.view for state in manifest.states] == [0, 0, 1, 1, 0, 0]
    assert [state.shape for state in manifest.states] == [(1, 2, rows, 16) for rows in (20, 20, 12, 12, 20, 20)]
    assert manifest.state_bytes == 4 * (4 * 2 * 20 * 16 + 2 * 2 * 12 * 16)
    below = StreamSpec(1, 7, 1, 4)  # sees no more than the layer's own window
    (view,) = Manifest.read(two_views.bundle(tmp_path / "short", below)).views
    assert view == LayerRing(8, True)


def test_two_exports_of_one_model_are_the_same_bundle(toy, tmp_path):
    first = export(toy.path, tmp_path / "a", "onnx", SPEC, "int4")
    second = export(toy.path, tmp_path / "b", "onnx", SPEC, "int4")
    assert first.files == second.files


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, RuntimeError, BadCheckpoint("broken")], ids=str)
def test_an_interrupted_export_leaves_nothing_and_harms_no_older_bundle(toy, tmp_path, monkeypatch, trouble):
    out = tmp_path / "bundle"
    export(toy.path, out, "onnx", SPEC, "fp32")
    before = {path: path.read_bytes() for path in out.iterdir()}

    def fail(*_):
        raise trouble

    monkeypatch.setattr(bundle_module, "write_tokenizer", fail)
    with pytest.raises(trouble if isinstance(trouble, type) else type(trouble)):
        export(toy.path, out, "onnx", SPEC, "int4")
    assert contents(tmp_path) == ["bundle"]
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(trouble if isinstance(trouble, type) else type(trouble)):
        export(toy.path, tmp_path / "new", "onnx", SPEC, "int4")
    assert contents(tmp_path) == ["bundle"]


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_an_export_killed_between_its_two_renames_leaves_the_older_bundle(toy, tmp_path, command):
    """Whoever opens the bundle next puts it back; the next export clears up."""
    out = tmp_path / "bundle"
    before = export(toy.path, out, "onnx", SPEC, "fp32")
    script = (
        "import os, sys; from pathlib import Path; from edgesink.export.bundle import export\n"
        "rename = os.replace\n"
        "def replace(source, goal):\n"
        "    rename(source, goal)\n"
        "    if '.old.' in str(goal): os.kill(os.getpid(), 9)\n"
        "os.replace = replace; export(Path(sys.argv[1]), Path(sys.argv[2]), precision='int8')"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script, toy.path, out], check=False)
    assert (done.returncode, out.exists()) == (-9, False)
    assert command("inspect", out)[0] == 0
    assert Manifest.read(out) == before
    before.check_files(out)
    export(toy.path, out, "onnx", SPEC, "int8")
    assert contents(tmp_path) == ["bundle"]
    assert Manifest.read(out).precision == "int8"


def test_progress_is_told_and_nothing_is_printed(toy, tmp_path, capfd):
    told = []
    export(toy.path, tmp_path / "bundle", "onnx", SPEC, "fp32", progress=lambda *what: told.append(what))
    assert [done for done, _, _ in told] == list(range(1, 30))  # 9 weights a layer, the embedding and the last norm
    assert {total for _, total, _ in told} == {29}
    assert len({name for _, _, name in told}) == 29
    assert capfd.readouterr() == ("", "")


def test_an_older_bundle_is_replaced_and_other_folders_are_not(toy, tmp_path):
    out = tmp_path / "bundle"
    export(toy.path, out, "onnx", SPEC, "fp32")
    export(toy.path, out, "onnx", SPEC, "int8")
    assert Manifest.read(out).precision == "int8"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(BadOption, match="is not a bundle"):
        export(toy.path, tmp_path / "mine", "onnx", SPEC, "fp32")
    assert contents(tmp_path / "mine") == ["thesis.txt"]


def test_too_small_a_disk_is_noticed_before_anything_is_written(toy, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 100 << 10, "total": 1 << 30})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(NoSpace, match="0 MiB free"):
        export(toy.path, tmp_path / "bundle", "onnx", SPEC, "fp32")
    assert contents(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_a_disk_that_fills_up_half_way_leaves_nothing(toy, tmp_path, monkeypatch):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundle_module, "write_tokenizer", full)
    with pytest.raises(NoSpace, match="is full"):
        export(toy.path, tmp_path / "bundle", "onnx", SPEC, "fp32")
    assert contents(tmp_path) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: (out / "model.onnx.data").unlink(), "is missing"),
        (lambda out: (out / "tokenizer.json").write_text("{}"), "bytes"),
        (lambda out: os.truncate(out / "model.onnx.data", 1000), "has 1000 bytes"),
        (lambda out: (out / "manifest.json").write_text("{}"), "format None"),
        (lambda out: replace_manifest(out, dataclasses.replace(Manifest.read(out), vocab=10**9)), "logits of 258"),
    ],
)
def test_a_damaged_bundle_does_not_load(toy, tmp_path, damage, message):
    out = tmp_path / "bundle"
    export(toy.path, out, "onnx", SPEC, "fp32")
    damage(out)
    with pytest.raises(BadBundle, match=message):
        load(out)


@pytest.mark.parametrize(
    "options",
    [
        {"window": 4, "chunk": 5},
        {"window": 0},
        {"sinks": 9, "max_sinks": 8},
        {"sinks": -1},
        {"chunk": 0},
        {"window": 20, "max_sinks": 24, "chunk": 2},
    ],
    ids=str,
)
def test_a_stream_that_cannot_be_is_refused(options):
    with pytest.raises(BadOption):
        StreamSpec.fitted(**options)


def test_what_is_left_open_is_fitted_to_the_window():
    assert StreamSpec.fitted() == StreamSpec(4, 1020, 128, 64)
    assert StreamSpec.fitted(window=28) == StreamSpec(4, 28, 18, 14)
    assert StreamSpec.fitted(window=1, sinks=0) == StreamSpec(0, 1, 0, 1)
    assert StreamSpec.fitted(sinks=300).max_sinks == 300


def test_peak_memory_follows_the_largest_tensor_and_not_the_model(toy_maker, tmp_path):
    """A model of 12 times more layers costs the exporter a few megabytes more, not its weights."""

    def peak(layers: int) -> int:
        path = toy_maker(
            tmp_path / f"m{layers}", num_hidden_layers=layers, hidden_size=512, intermediate_size=1536,
            num_attention_heads=8, num_key_value_heads=8, head_dim=64, shard_size="20MB",
        ).path  # fmt: skip
        script = (
            "import sys, resource; from pathlib import Path; from edgesink.export.bundle import export;"
            "from edgesink.spec import LayerRing, StreamSpec;"
            "export(Path(sys.argv[1]), Path(sys.argv[2]), 'onnx', StreamSpec(3, 13, 8, 5), 'int8');"
            "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')][0])"
        )
        out = tmp_path / f"b{layers}"
        done = subprocess.run(
            [sys.executable, "-P", "-c", script, path, out], capture_output=True, text=True, check=True
        )
        return int(done.stdout) * 1024

    weights = 4 * (4 * 512 * 512 + 3 * 512 * 1536)  # bytes of one layer in float32
    assert peak(26) - peak(2) < 8 * weights, "24 layers more ought to cost less than 8 of them"


def test_a_cached_bundle_of_another_version_is_made_again_or_taken_as_it_is(toy, tmp_path, monkeypatch, capsys):
    from functools import partial

    from edgesink import bundles
    from edgesink.callbacks import Talk
    from edgesink.version import __version__

    monkeypatch.setenv("EDGESINK_CACHE", str(tmp_path))
    name, told = str(toy.path), []
    find_bundle = partial(bundles.find_bundle, talk=Talk(told.append))
    folder = find_bundle(name, SPEC)
    assert find_bundle(name, SPEC) == folder
    assert told == [f"exporting {name} once, to {folder}"]

    def altered() -> None:
        manifest = Manifest.read(folder)
        tools = manifest.tools | {"edgesink": "0.0.1"}
        replace_manifest(folder, dataclasses.replace(manifest, tools=tools))

    altered()
    find_bundle(name, SPEC)
    assert Manifest.read(folder).tools["edgesink"] == __version__

    def unreachable(name: str, say: object) -> None:
        raise EdgesinkError("no network")

    older = json.loads((folder / "manifest.json").read_text()) | {"format": FORMAT - 1}
    (folder / "manifest.json").write_text(json.dumps(older))
    with pytest.raises(BadBundle, match="export the model again"):
        load(folder)
    find_bundle(name, SPEC)
    assert Manifest.read(folder).format == FORMAT

    altered()
    monkeypatch.setattr("edgesink.export.source.find_checkpoint", unreachable)
    assert find_bundle(name, SPEC) == folder
    assert "0.0.1, taken as it is (no network)" in told[-1]
    assert capsys.readouterr() == ("", ""), "talk is the caller's"
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(EdgesinkError, match="no network"):
        find_bundle(name, SPEC)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"])
def test_a_cached_bundle_is_made_again_when_any_file_of_its_checkpoint_changes(toy, tmp_path, monkeypatch, name):
    from edgesink.bundles import find_bundle

    monkeypatch.setenv("EDGESINK_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "Llama-3.2-1B"
    shutil.copytree(toy.path, folder)
    before = find_bundle(str(folder), SPEC)
    assert find_bundle(str(folder), SPEC) == before
    assert before.name.startswith("Llama-3.2-1B-")
    (folder / name).touch()
    os.utime(folder / name, ns=(1, 1))
    assert find_bundle(str(folder), SPEC) != before
