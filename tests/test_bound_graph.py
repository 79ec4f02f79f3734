"""A graph bound to its state: which graph is run where, and what a run that fails leaves behind."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgesink import EdgesinkError, load, names
from edgesink.errors import BadOption, RunFailed
from edgesink.manifest import ONNX_GRAPH, Manifest, describe_file, replace_manifest
from edgesink.runtime.bound_graph import RunOptions
from edgesink.runtime.kernels import available_kernels
from edgesink.spec import StreamSpec

SPEC = StreamSpec(3, 13, 8, 5)
FORBIDDEN = 200  # ids from here up stop the spoilt graph


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("bound") / "bundle", SPEC)


@pytest.fixture(scope="module")
def failing(toy, tmp_path_factory):
    """A bundle whose graph stops behind all its layers, the state written, when the last id is forbidden."""
    bundle = toy.bundle(tmp_path_factory.mktemp("failing") / "bundle", SPEC)
    model = onnx.load(bundle / ONNX_GRAPH, load_external_data=False)
    (head,) = [node for node in model.graph.node if names.LOGITS in node.output]
    head.output[:] = ["unchecked" if name == names.LOGITS else name for name in head.output]
    for node in model.graph.node:
        node.input[:] = ["unchecked" if name == names.LOGITS else name for name in node.input]
    for name, array in {"allowed": np.zeros(FORBIDDEN, np.float32), "newest": np.array(-1), "flat": [-1]}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    model.graph.node.extend(
        [
            helper.make_node("Reshape", [names.IDS, "flat"], ["flat_ids"]),
            helper.make_node("Gather", ["flat_ids", "newest"], ["last_id"]),
            helper.make_node("Gather", ["allowed", "last_id"], ["zero"]),  # out of its range for a forbidden id
            helper.make_node("Add", ["unchecked", "zero"], [names.LOGITS]),
        ]
    )
    (bundle / ONNX_GRAPH).write_bytes(model.SerializeToString())
    manifest = Manifest.read(bundle)
    files = tuple(describe_file(bundle, bundle / file.path) for file in manifest.files)
    replace_manifest(bundle, dataclasses.replace(manifest, files=files))
    return bundle


@pytest.mark.parametrize("before", [1, 13, 16, 17, 40], ids=lambda n: f"after {n} tokens")
@pytest.mark.parametrize("fatal", [[250], [7, 8, 250], [4, 5, 6, 7, 250]], ids=lambda ids: f"{len(ids)} at once")
def test_a_run_that_fails_is_told_in_words_and_the_stream_goes_on_from_where_it_was(failing, bundle, before, fatal):
    stream, untroubled = load(failing), load(bundle)
    ids = np.random.default_rng(before).integers(2, FORBIDDEN, before + 30)
    for each in (stream, untroubled):
        each.prefill(ids[:before])
    with pytest.raises(RunFailed, match=rf"stopped at token {before} \(.*(?i:gather|indices)"):
        stream.prefill(fatal)
    assert stream.position == before
    for token in ids[before:]:
        assert np.array_equal(stream.step(token), untroubled.step(token))


def test_chunks_before_the_one_that_fails_were_fed(failing):
    stream = load(failing)
    with pytest.raises(RunFailed):
        stream.prefill([4, 5, 6, 7, 8, 9, 250])
    assert stream.position == 5, "a chunk"


def test_what_a_user_sees_of_it_has_no_traceback(failing, command):
    assert load(failing).tokenizer.encode(" ") > [FORBIDDEN]
    code, _, err = command("generate", failing, " ", "--max-new-tokens", 3)
    assert code == 1
    assert "stopped at token 0" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, RunOptions(None, "cpu", None)),
        ({"provider": "plain"}, RunOptions(None, "cpu", False)),
        ({"provider": "plain", "kernels": False, "threads": 2}, RunOptions(2, "cpu", False)),
        ({"provider": "cuda"}, RunOptions(None, "cuda", None)),
        ({"kernels": True}, RunOptions(None, "cpu", True)),
        ({"exact": True}, RunOptions(None, "cpu", None, None, exact=True)),
    ],
    ids=str,
)
def test_plain_is_the_cpu_without_kernels(given, options):
    assert RunOptions.of(**given) == options


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"provider": "plain", "kernels": True}, "provider plain"),
        ({"provider": "cuda", "kernels": True}, "kernels on cuda"),
        ({"provider": "cuda", "exact": True}, "exact without kernels"),
        ({"provider": "plain", "exact": True}, "exact without kernels"),
        ({"provider": "tpu"}, "cpu or plain or cuda"),
        ({"threads": 0}, "threads = 0"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused(given, message):
    with pytest.raises(BadOption, match=message):
        RunOptions.of(**given)


def test_kernels_that_are_asked_for_and_not_there_are_refused_and_not_left_out(bundle):
    assert load(bundle).runner.endswith("cpu"), "a bundle in fp32 has no graph for them"
    with pytest.raises(EdgesinkError, match="int8 or int4"):
        load(bundle, kernels=True)


@pytest.mark.skipif(not available_kernels(), reason="no C compiler when edgesink was installed, or another processor")
def test_kernels_run_where_they_are_unless_they_are_not_wanted(toy, tmp_path, command):
    bundle = toy.bundle(tmp_path / "bundle", SPEC, "int4")
    assert "kernels" in load(bundle).runner
    assert "kernels" in load(bundle, kernels=True).runner
    assert load(bundle, kernels=False).runner == load(bundle, provider="plain").runner
    assert "kernels" not in load(bundle, kernels=False).runner
    for option in ("--no-kernels", "--kernels", "--mapped", "--read", "--exact", "--provider=plain"):
        code, _, err = command("generate", bundle, "a", "--max-new-tokens", 1, option)
        assert code == 0, err
    code, _, err = command("generate", bundle, "a", "--kernels", "--provider", "plain")
    assert code == 1
    assert "provider plain" in err
