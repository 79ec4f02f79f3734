"""A bundle's second graph: its weights laid out for the kernels, its streams, and lists of weights that cannot be."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgesink.errors import BadBundle
from edgesink.kernel_image import GROUP, Image, Part
from edgesink.manifest import KERNELS_GRAPH, KERNELS_IMAGE, ONNX_DATA, Manifest
from edgesink.runtime import kernels
from edgesink.runtime.session import load
from edgesink.spec import StreamSpec
from edgesink.targets import KERNELS_MOST_HEAD_DIM, KERNELS_WHOLE, lacks

needs_kernels = pytest.mark.skipif(
    not kernels.available_kernels(), reason="no C compiler when edgesink was installed, or another processor"
)


@needs_kernels
def test_python_and_the_library_lay_as_many_rows_side_by_side():
    assert kernels._library().edgesink_group() == GROUP


@needs_kernels
def test_rows_are_laid_side_by_side():
    rows = np.arange(32 * 12, dtype=np.uint32).astype(np.uint8).reshape(32, 12)  # of three words, two of them wanted
    rows[17:] = 0
    laid = np.full(32 * 8, 99, np.uint8)
    kernels._library().edgesink_side_by_side(rows.ctypes.data, laid.ctypes.data, 32, 12, 8, 4)
    assert laid[:8].tolist() == [0, 1, 2, 3, 12, 13, 14, 15]  # the first words of rows 0 and 1
    assert laid[64:72].tolist() == [4, 5, 6, 7, 16, 17, 18, 19]  # their second words
    assert laid[128:136].tolist() == [192, 193, 194, 195, 0, 0, 0, 0]  # row 16, and none beside it
    assert laid[192:196].tolist() == [196, 197, 198, 199]
    halves, found = np.arange(16 * 3, dtype=np.uint16), np.zeros(16 * 3, np.uint16)
    kernels._library().edgesink_side_by_side(halves.ctypes.data, found.ctypes.data, 16, 6, 6, 2)
    assert found[:4].tolist() == [0, 3, 6, 9]


def test_an_image_is_its_parts_filled_up_and_aligned():
    image = Image((Part(0, 17, 12, 8, 4), Part(4096, 1, 100, 100, 2), Part(8192, 16, 2, 2, 2)))
    assert image.offsets == [0, 256, 384, 448]
    assert Image.from_json(image.to_json()) == image


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 2, "parts": []}',
        '{"format": 1, "parts": [{"offset": 0, "rows": 8}]}',
        '{"format": 1, "parts": [{"offset": -4, "rows": 1, "row_bytes": 8, "kept": 8, "unit": 4}]}',
        '{"format": 1, "parts": [{"offset": 0, "rows": 2, "row_bytes": 9, "kept": 8, "unit": 4}]}',
        '{"format": 1, "parts": [{"offset": 0, "rows": 2, "row_bytes": 8, "kept": 12, "unit": 4}]}',
        '{"format": 1, "parts": [{"offset": 0, "rows": 0, "row_bytes": 8, "kept": 8, "unit": 4}]}',
        '{"format": 1, "parts": [{"offset": 0, "rows": 1, "row_bytes": 8, "kept": 8, "unit": 1}]}',
        '{"format": 1, "parts": [{"offset": "0", "rows": 1, "row_bytes": 8, "kept": 8, "unit": 2}]}',
        '{"format": 1, "parts": [], "more": 1}',
    ],
)
def test_a_list_of_weights_that_cannot_be_is_refused(text):
    with pytest.raises(BadBundle, match="kernels' weights"):
        Image.from_json(text)


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
@pytest.mark.parametrize(
    "change",
    [{"offset": 1 << 30}, {"offset": 10**400}, {"rows": 10**12}, {"row_bytes": 10**9}],
    ids=lambda c: next(iter(c)),
)
def test_a_list_that_leads_beyond_the_weights_is_refused(bundle, tmp_path, change):
    parts = [part | change if place == 0 else part for place, part in enumerate(list_of_weights(bundle))]
    refuses_list(bundle, tmp_path, json.dumps({"format": 1, "parts": parts}), "leads beyond")


@needs_kernels
def test_a_list_that_takes_the_weights_many_times_over_is_refused(bundle, tmp_path):
    parts = list_of_weights(bundle) * 1000
    refuses_list(bundle, tmp_path, json.dumps({"format": 1, "parts": parts}), "leads beyond")


@needs_kernels
@pytest.mark.parametrize("text", [b"\xff", b"[" * 100_000, b"{}"], ids=["bytes", "nested", "empty"])
def test_a_list_that_is_none_is_refused(bundle, tmp_path, text):
    refuses_list(bundle, tmp_path, text, "cannot be read")


def list_of_weights(bundle: Path) -> list[dict[str, int]]:
    return json.loads((bundle / KERNELS_IMAGE).read_text())["parts"]


def refuses_list(bundle: Path, folder: Path, text: str | bytes, words: str) -> None:
    (folder / KERNELS_IMAGE).write_bytes(text.encode() if isinstance(text, str) else text)
    for name in (ONNX_DATA, KERNELS_GRAPH):
        (folder / name).symlink_to(bundle / name)
    with pytest.raises(BadBundle, match=words):
        kernels.Kernels(folder / KERNELS_GRAPH)


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
