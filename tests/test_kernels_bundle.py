"""A bundle's second graph: where its weights are, its streams, and what it asks of a model."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgesink.errors import BadBundle, BadOption
from edgesink.export.to_onnx.layout import GROUP
from edgesink.manifest import KERNELS_GRAPH, ONNX_DATA, Manifest
from edgesink.runtime import kernels, memory
from edgesink.runtime.bound_graph import BoundGraph, RunOptions
from edgesink.runtime.session import load
from edgesink.spec import StreamSpec
from edgesink.targets import KERNELS_MOST_HEAD_DIM, KERNELS_WHOLE, lacks

needs_kernels = pytest.mark.skipif(
    not kernels.available_kernels(), reason="no C compiler when edgesink was installed, or another processor"
)


SPEC = StreamSpec(4, 60, 16, 16)
IDS = np.random.default_rng(0).integers(2, 256, 300)


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("kernels") / "bundle", SPEC, "int4")


@needs_kernels
def test_a_stream_runs_on_the_kernels_unless_it_is_told_not_to(bundle):
    assert "kernels" in load(bundle).runner
    assert "kernels" not in load(bundle, provider="plain").runner
    assert load(bundle).state_bytes * 2 == load(bundle, provider="plain").state_bytes


def test_floats_have_no_graph_for_kernels(toy, tmp_path, command):
    folder = toy.bundle(tmp_path / "bundle", SPEC, "fp32")
    assert not Manifest.read(folder).has_kernels
    assert "kernels" not in load(folder).runner
    line = "kernels   none: fp32 is not int8 or int4; runs on ONNX Runtime's own operators\n"
    assert line in command("inspect", folder)[1]


@needs_kernels
def test_a_bundle_says_which_kernels_run_it_here(bundle, command):
    assert f"kernels   {kernels.available_kernels()[0]}; with them" in command("inspect", bundle)[1]


@pytest.mark.parametrize("shape", [{"head_dim": 24}, {"hidden_size": 48}, {"intermediate_size": 80}], ids=str)
def test_a_model_that_the_operators_cannot_hold_has_none_or_is_refused(toy_maker, tmp_path, shape):
    from edgesink.export.checkpoint import open_checkpoint
    from edgesink.export.to_onnx.kernels import runs_on_kernels

    assert not runs_on_kernels(open_checkpoint(toy_maker(tmp_path, **shape).path).model, "int4")


def test_a_model_that_the_operators_cannot_hold_runs_on_others_and_says_why(toy_maker, tmp_path, command):
    folder = toy_maker(tmp_path / "toy", head_dim=24).bundle(tmp_path / "bundle", SPEC, "int4")
    assert "kernels" not in load(folder).runner
    line = "kernels   none: head_dim 24 is not a multiple of 16; runs on ONNX Runtime's own operators\n"
    assert line in command("inspect", folder)[1]


SIZES = {"head_dim": 64, "hidden": 576, "intermediate": 1536}


@pytest.mark.parametrize(
    ("target", "precision", "sizes", "expected"),
    [
        ("onnx", "int4", {}, []),
        ("onnx", "int8", {}, []),
        ("onnx", "fp16", {}, ["fp16 is not int8 or int4"]),
        ("coreml", "fp16", {"head_dim": 24}, []),
        ("onnx", "int4", {"head_dim": 72}, ["head_dim 72 is not a multiple of 16"]),
        ("onnx", "int4", {"norm_kind": "layer", "weights": ["attention_norm", "q_bias"]}, []),
        ("onnx", "int4", {"norm_kind": "layer", "weights": ["attention_norm", "k_norm"]}, ["k_norm is a LayerNorm"]),
        ("onnx", "int4", {"norm_kind": "rms", "weights": ["attention_norm", "k_norm"]}, []),
        ("onnx", "int4", {"head_dim": 1024}, []),
        ("onnx", "int4", {"head_dim": 2048}, ["head_dim 2048 is more than 1024"]),
        (
            "onnx",
            "int8",
            {"hidden": 48, "intermediate": 80},
            ["hidden 48 is not a multiple of 32", "intermediate 80 is not a multiple of 32"],
        ),
        ("onnx", "int4", {"score_cap": 50.0, "logits_cap": 30.0}, ["scores have a soft cap"]),
        ("coreml", "fp16", {"score_cap": 50.0}, []),
        ("onnx", "int4", {"views": [{}, {"slopes": [0.5]}]}, ["scores lose what their distance costs (ALiBi)"]),
        ("onnx", "int4", {"head_dim": "24", "hidden": None, "views": 3}, []),  # whatever a manifest has there
    ],
)
def test_what_a_bundle_lacks_is_said_in_words(target, precision, sizes, expected):
    assert lacks(target, precision, SIZES | sizes) == expected


@needs_kernels
def test_the_limits_are_the_operators_own():
    header = (Path(__file__).parent.parent / "kernels" / "kernels.h").read_text(encoding="utf-8")
    limits = dict(re.findall(r"^    (GROUP|BLOCK|MOST_HEAD_DIM) = (\d+)", header, re.MULTILINE))
    assert {name: int(limit) for name, limit in limits.items()} == {
        "GROUP": KERNELS_WHOLE["head_dim"], "BLOCK": KERNELS_WHOLE["hidden"], "MOST_HEAD_DIM": KERNELS_MOST_HEAD_DIM,
    }  # fmt: skip
    assert KERNELS_WHOLE["head_dim"] == GROUP, "rows that lie side by side"


@needs_kernels
def test_sessions_go_from_the_kernels_to_plain_operators_and_back(bundle, tmp_path):
    ours, plain = load(bundle), load(bundle, provider="plain")
    ours.prefill(IDS[:200])
    ours.save(tmp_path / "ours")
    plain.restore(tmp_path / "ours")
    assert plain.position == 200
    plain.prefill(IDS[200:250])
    plain.save(tmp_path / "plain")
    expected = ours.prefill(IDS[200:260])
    again = load(bundle)
    again.restore(tmp_path / "plain")
    got = again.prefill(IDS[250:260])
    assert np.corrcoef(got, expected)[0, 1] > 0.999


@needs_kernels
def test_a_session_of_the_kernels_gives_back_the_very_stream(bundle, tmp_path):
    stream = load(bundle)
    stream.prefill(IDS[:150])
    stream.save(tmp_path / "session")
    expected = stream.step(7)
    other = load(bundle)
    other.prefill(IDS[:20])
    other.restore(tmp_path / "session")
    assert (other.step(7) == expected).all()


@needs_kernels
@pytest.mark.parametrize("mapped", [True, False, None])
def test_weights_are_the_same_in_their_file_and_in_memory(bundle, mapped):
    expected = load(bundle).prefill(IDS[:80])
    assert (load(bundle, mapped=mapped).prefill(IDS[:80]) == expected).all()


def test_free_memory_is_some_and_no_more_than_there_is():
    assert 1 << 20 < memory.free_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize("options", [{"kernels": False}, {"provider": "plain"}], ids=str)
def test_only_kernels_read_weights_from_their_file(bundle, options):
    with pytest.raises(BadOption, match="without kernels"):
        load(bundle, mapped=True, **options)


@needs_kernels
def test_weights_that_end_too_soon_are_refused(bundle, tmp_path):
    (tmp_path / KERNELS_GRAPH).symlink_to(bundle / KERNELS_GRAPH)
    (tmp_path / ONNX_DATA).write_bytes((bundle / ONNX_DATA).read_bytes()[:-100])
    manifest = Manifest.read(bundle)
    for mapped in (True, False):
        with pytest.raises(BadBundle, match="cannot load"):
            BoundGraph(tmp_path, manifest, RunOptions(mapped=mapped))


@needs_kernels
def test_streams_of_several_threads_do_not_meet(bundle):
    def run(seed: int) -> np.ndarray:
        stream = load(bundle, threads=2)
        ids = np.random.default_rng(seed).integers(2, 256, 120)
        return np.stack([stream.prefill(ids[i : i + 3]) for i in range(0, 120, 3)])

    expected = [run(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for got, alone in zip(pool.map(run, range(3)), expected, strict=True):
            assert (got == alone).all()


@needs_kernels
def test_every_tensor_of_the_graph_has_the_same_shape_for_ever(bundle):
    graph = onnx.load(bundle / KERNELS_GRAPH, load_external_data=False).graph
    assert {node.op_type for node in graph.node if node.domain == "edgesink"} == {
        "BlockProduct",
        "BlockRows",
        "RingAttention",
    }
    shapes = {
        value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
        if value.name.startswith(("key", "value"))
    }
    assert set(map(tuple, shapes.values())) == {(1, 2, SPEC.rows, 16)}
    stream = load(bundle)
    stream.prefill(IDS[:200])
    before = stream.state_bytes
    stream.position = 10**12
    assert np.isfinite(stream.step(5)).all()
    assert stream.state_bytes == before


@needs_kernels
def test_the_phases_of_wide_heads_are_a_constant_of_a_kilobyte_and_stay_in_the_graph(toy_maker, tmp_path):
    toy = toy_maker(tmp_path / "model", head_dim=256, num_attention_heads=2, num_key_value_heads=1)
    bundle = toy.bundle(tmp_path / "bundle", SPEC, "int4")
    with_kernels, without = (load(bundle, kernels=kernels).prefill(IDS[:80]) for kernels in (True, False))
    assert np.abs(with_kernels - without).max() < 0.5 * without.std()
