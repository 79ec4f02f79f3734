"""The graph for our kernels against the oracle: a quantised model's own logits, on toys and on real weights."""

import dataclasses
from functools import cache

import numpy as np
import onnx
import pytest

from edgesink.manifest import KERNELS_GRAPH, Manifest, describe_file, replace_manifest
from edgesink.reference import Reference
from edgesink.runtime import kernels
from edgesink.runtime.session import load
from edgesink.spec import StreamSpec
from edgesink.verify.bundle import verify_bundle
from edgesink.verify.held_model import held_model
from edgesink.verify.tolerances import TABLE

pytestmark = pytest.mark.skipif(
    not kernels.available_kernels(), reason="no C compiler when edgesink was installed, or another processor"
)

LIMIT = TABLE["kernels", True]
TOY = 0.1  # logits up to about 20, of weights so large that roundings grow from layer to layer

SHAPES = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "one head a key": {"num_key_value_heads": 4},
    "one key for all": {"num_key_value_heads": 1, "num_attention_heads": 16},
    "wide heads": {"head_dim": 80},
}


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_the_oracle_with_the_same_weights(toy_maker, tmp_path, shape, precision):
    toy = toy_maker(tmp_path / "toy", **SHAPES[shape])
    ids = np.random.default_rng(0).integers(2, 256, 100)
    reference = Reference(held_model(toy.path, precision), 3, 13)
    expected = [reference.step(int(token)) for token in ids]
    stream = load(toy.bundle(tmp_path / "bundle", StreamSpec(3, 13, 8, 5), precision))
    assert "kernels" in stream.runner
    sizes, place = iter([5, 1, 1, 4, 3, 1, 5, 2] * 20), 0
    while place < len(ids):
        size = min(next(sizes), len(ids) - place)
        got = stream.prefill(ids[place : place + size])
        place += size
        difference = np.abs(got - expected[place - 1])
        assert difference.max() <= TOY, (
            f"token {place - 1}: max |Δ| {difference.max():.1e}, mean {difference.mean():.1e}"
        )


@pytest.fixture(scope="module")
def expected(smollm2_oracle_model, english):
    """expected(sinks, window, tokens, positions) -> the oracle's logits [n, V]; the GGUF's weights are exactly ours."""

    @cache
    def logits(sinks: int, window: int, tokens: int, positions: str = "cache") -> np.ndarray:
        reference = Reference(smollm2_oracle_model, sinks, window, positions=positions)
        return np.stack([reference.step(int(token)) for token in english[:tokens]])

    return logits


def close(got: np.ndarray, wanted: np.ndarray) -> None:
    difference = np.abs(got - wanted)
    report = f"max |Δ| {difference.max():.1e}, mean {difference.mean():.1e} ({LIMIT.reason})"
    assert difference.max() <= LIMIT.max_abs, report
    assert (got.argmax(-1) == wanted.argmax(-1)).mean() >= LIMIT.argmax, report


@pytest.mark.parametrize("name", kernels.available_kernels())
def test_every_logit_of_the_real_model_over_four_laps(smollm2_bundles, expected, english, name):
    tokens = 32 + 4 * 28
    kernels.choose_kernels(name)
    try:
        stream = load(smollm2_bundles("int4", StreamSpec.fitted(window=28)))
        got = np.stack([stream.step(int(token)) for token in english[:tokens]])
    finally:
        kernels.choose_kernels(kernels.available_kernels()[0])
    close(got, expected(4, 28, tokens))


@pytest.mark.parametrize("size", [1, 7, 14])
@pytest.mark.parametrize("sinks", [1, 9])
def test_the_real_model_in_chunks_and_with_other_sinks(smollm2_bundles, expected, english, sinks, size):
    stream = load(smollm2_bundles("int4", StreamSpec.fitted(window=28)), sinks=sinks)
    ends = range(size, 120, size)
    got = np.stack([stream.prefill(english[end - size : end]) for end in ends])
    close(got, expected(sinks, 32 - sinks, 120)[[end - 1 for end in ends]])


def test_positions_that_grow(smollm2_bundles, expected, english):
    stream = load(smollm2_bundles("int4", StreamSpec.fitted(window=28, positions="original")))
    assert "kernels" in stream.runner
    got = np.stack([stream.step(int(token)) for token in english[:90]])
    close(got, expected(4, 28, 90, "original"))


def one_token_fewer(node: onnx.NodeProto) -> None:
    """The attention of a layer thinks that a token sees one fewer."""
    next(given for given in node.attribute if given.name == "capacity").i -= 1


def sinks_seen_as_far_as_they_are(node: onnx.NodeProto) -> None:
    """The query is not turned back to where the sinks see it."""
    node.input[7:9] = node.input[5:7]


@pytest.mark.parametrize("fault", [one_token_fewer, sinks_seen_as_far_as_they_are], ids=lambda fault: fault.__name__)
def test_verifying_finds_a_fault_of_one_layer_of_the_kernels_graph(toy, tmp_path, fault):
    bundle = toy.bundle(tmp_path / "bundle", StreamSpec(3, 13, 8, 5), "int4")
    assert [(report.kind, report.failures) for report in verify_bundle(bundle, toy.path)] == [
        ("target", []),
        ("kernels", []),
    ]
    model = onnx.load(bundle / KERNELS_GRAPH, load_external_data=False)
    fault([node for node in model.graph.node if node.op_type == "RingAttention"][1])
    (bundle / KERNELS_GRAPH).write_bytes(model.SerializeToString())
    manifest = Manifest.read(bundle)
    files = tuple(describe_file(bundle, bundle / file.path) for file in manifest.files)
    replace_manifest(bundle, dataclasses.replace(manifest, files=files))
    plain, ours = verify_bundle(bundle, toy.path)
    assert ours.failures
    assert not plain.failures, "the plain graph has no fault"
    assert Manifest.read(bundle).parity == plain.parity(), "what a bundle says of itself runs everywhere"
