"""Products of long passes, in which activations are rounded to 8 bits where a block has no outstanding values.

The rule, once more in numpy: a whole eight of tokens is rounded alike. A block of 32 columns keeps 15 bits in it if it
is loud: if the squares of its largest values, each divided by the mean square of its token's row, are on average more
than 36. Tokens beyond the last whole eight, and passes of up to 16 tokens, keep 15 bits throughout.
"""

import kernel_nodes as nodes
import numpy as np
import onnx
import packed
import pytest
from onnx import TensorProto, helper

from edgesink.errors import BadOption
from edgesink.manifest import KERNELS_GRAPH
from edgesink.runtime import kernels
from edgesink.runtime.session import load
from edgesink.spec import StreamSpec

pytestmark = pytest.mark.skipif(
    not kernels.available_kernels(), reason="no C compiler when edgesink was installed, or another processor"
)


MATRICES = nodes.MATRICES

TOGETHER, SHORT = 8, 16  # tokens that are rounded alike; of the longest pass that is never coarse
ORDER = 2e-5  # of the mean size of a result: the order in which floats are added up


def product(weights, entries: tuple[str, ...] = (), **more):
    """run(x [T, K]) -> [T, N] of a coarse product, in a session with these configuration entries."""
    rows, columns = weights.values.shape
    vectors = {name: more.pop(name) for name in ("norm",) if name in more}
    attributes = {"gated": 0, "epsilon": 1e-5, "coarse": 1} | weights.attributes | more
    tensors = weights.tensors | vectors
    names = [name if name == "x" or name in tensors else "" for name in nodes.PRODUCT_INPUTS]
    node = helper.make_node("BlockProduct", names, ["y"], **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "T", columns])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "T", rows // (2 if attributes["gated"] else 1)])
    session = nodes.session_of([node], [x], [y], tensors, entries=entries)
    return lambda x: session.run(None, {"x": x[None].astype(np.float32)})[0][0]


def loud_blocks(x: np.ndarray) -> np.ndarray:
    """Whether each block keeps its 15 bits in an eight: x [8, K] -> bool [K / 32]."""
    squares = x.astype(float) ** 2
    largest, mean = squares.reshape(len(x), -1, 32).max(-1), squares.mean(-1, keepdims=True)
    loudness = np.divide(largest, mean, out=np.zeros_like(largest), where=mean > 0).mean(0)
    assert (np.abs(loudness / 36 - 1) > 1e-3).all(), "too close for a sum of floats"
    return loudness > 36


def rounded(x: np.ndarray) -> np.ndarray:
    """The activations as a coarse product sees them: float32 [T, K] -> float64 [T, K]."""
    blocks = x.reshape(len(x), -1, 32)
    largest = np.abs(blocks).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 1e-35)
    high = np.rint(blocks * inverse)
    low = np.rint((blocks * inverse - high) * np.float32(128))
    coarse = np.zeros(blocks.shape[:2], bool)
    if len(x) > SHORT:
        for first in range(0, len(x) - TOGETHER + 1, TOGETHER):
            coarse[first : first + TOGETHER] = ~loud_blocks(x[first : first + TOGETHER])
    seen = largest.astype(float) / 127 * np.where(coarse[..., None], high, high + low.astype(float) / 128)
    return seen.reshape(x.shape)


def activations(tokens: int, columns: int, seed: int = 0) -> np.ndarray:
    """A column of the last block stands out in every token, one of the first block in the first eight only."""
    x = np.random.default_rng(seed).standard_normal((tokens, columns)).astype(np.float32)
    x[:, -3] *= 60
    if columns > 64:
        x[8:16, 5] = 0.1
        x[:8, 5] = 40
    return x


@pytest.mark.parametrize("tokens", [17, 23, 24, 64])
@pytest.mark.parametrize("matrix", MATRICES)
def test_a_coarse_product_is_that_of_what_the_rule_rounds_to(instructions, matrix, tokens):
    weights = MATRICES[matrix]
    x = activations(tokens, weights.values.shape[1])
    expected = rounded(x) @ weights.values.T
    difference = np.abs(product(weights)(x) - expected).max()
    size = np.abs(expected).mean()
    assert difference <= ORDER * size, f"max |Δ| {difference / size:.1e} of the mean size"


@pytest.mark.parametrize("kind", packed.TYPES)
def test_every_type_of_weights_has_coarse_products(instructions, kind):
    weights = packed.of_gguf(kind, packed.random_blocks(kind, 70, 512, np.array([-0.03, 0.01, 0.05])))
    x = activations(24, 512)
    expected = (x.astype(float) if kind in packed.FLOATS else rounded(x)) @ weights.values.astype(float).T
    difference = np.abs(product(weights)(x) - expected).max()
    size = np.abs(expected).mean()
    assert difference <= ORDER * size, f"max |Δ| {difference / size:.1e} of the mean size"


def test_the_rule_keeps_some_blocks_and_rounds_others_in_these_tests():
    x = activations(64, 576)
    loud = [loud_blocks(x[first : first + 8]) for first in range(0, 64, 8)]
    assert [row[-1] for row in loud] == [True] * 8  # the column that stands out
    assert [row[0] for row in loud] == [True] + [False] * 7  # that of a single eight
    assert not any(row[1:-1].any() for row in loud)
    exact = product(MATRICES["4 bits"], coarse=0)(x)
    error = np.abs(product(MATRICES["4 bits"])(x) - exact).max() / np.abs(exact).mean()
    assert 20 * ORDER < error < 0.1  # what a coarse product changes is seen, and small


def test_the_norm_before_a_coarse_product_comes_before_the_rule(instructions):
    weights, x = MATRICES["4 bits"], activations(24, 576)
    norm = np.ones(576, np.float32)
    norm[-3] = 1 / 60  # nothing stands out any more behind it
    norm[100] = 80  # and this does
    normed = x / np.sqrt((x.astype(float) ** 2).mean(-1, keepdims=True) + 1e-5).astype(np.float32) * norm
    assert loud_blocks(normed[16:]).nonzero()[0].tolist() == [100 // 32]
    expected = rounded(normed) @ weights.values.T
    # a value between two codes may be taken for either: no more than one of 254 steps of a block
    assert np.abs(product(weights, norm=norm)(x) - expected).max() <= 1e-3 * np.abs(expected).mean()


@pytest.mark.parametrize("gated", [1, 2, 3, 4])
def test_a_coarse_product_may_be_gated(instructions, gated):
    weights, x = MATRICES["4 bits"], activations(40, 576)
    gate, up = nodes.gate_and_up(rounded(x) @ weights.values.T, gated)
    z = gate if gated % 2 else 2 * np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
    expected = gate / (1 + np.exp(-np.clip(z, -80, None))) * up
    assert np.abs(product(weights, gated=gated)(x) - expected).max() <= 4 * ORDER * np.abs(expected).max()


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 16])
def test_up_to_sixteen_tokens_each_has_the_bits_that_it_has_alone(instructions, matrix, tokens):
    weights = MATRICES[matrix]
    x, coarse = activations(tokens, weights.values.shape[1]), product(weights)
    alone = np.concatenate([product(weights, coarse=0)(token[None]) for token in x])
    assert np.array_equal(coarse(x), alone)


@pytest.mark.parametrize("matrix", MATRICES)
def test_without_the_attribute_or_in_an_exact_session_so_has_each_of_any_number(instructions, matrix):
    weights = MATRICES[matrix]
    x = activations(37, weights.values.shape[1])
    alone = np.concatenate([product(weights)(token[None]) for token in x])
    for run in (product(weights, coarse=0), product(weights, entries=(kernels.EXACT,))):
        assert np.array_equal(run(x), alone)
    assert not np.array_equal(product(weights)(x), alone)
    assert np.array_equal(product(weights)(x)[32:], alone[32:])  # beyond the last whole eight


def test_a_token_depends_on_its_eight_and_on_no_other(instructions):
    weights, x = MATRICES["4 bits"], activations(40, 576)
    run = product(weights)
    got, other = run(x), x.copy()
    other[:16], other[24:] = activations(16, 576, seed=1), 3 * activations(16, 576, seed=2)
    assert np.array_equal(run(other)[16:24], got[16:24])
    assert np.array_equal(run(x[8:])[8:16], got[16:24])  # nor on how long the pass is
    turned = np.roll(np.arange(8), 3)
    assert np.array_equal(run(np.concatenate([x[:16], x[16:24][turned], x[24:]]))[16:24], got[16:24][turned])


def test_a_token_that_is_far_out_in_its_eight_is_seen_to(instructions):
    weights = MATRICES["4 bits"]
    x = np.random.default_rng(5).standard_normal((24, 576)).astype(np.float32)
    x[9], x[10], x[11], x[12] = 0, x[10] * np.float32(1e-30), x[11] * np.float32(1e17), 0
    x[12, 40] = 3e4  # all of it in one column, as a model's first token has it
    got, expected = product(weights)(x).astype(float), rounded(x) @ weights.values.T
    assert (got[9] == 0).all()
    for token in (8, 10, 11, 12, 13, 23):
        size = np.abs(expected[token]).mean()
        assert np.abs(got[token] - expected[token]).max() <= ORDER * size, token
    assert loud_blocks(x[8:16]).nonzero()[0].tolist() == [1]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 3e38])
def test_numbers_that_are_none_reach_no_other_token(instructions, number):
    weights = MATRICES["4 bits"]
    x = np.random.default_rng(6).standard_normal((24, 576)).astype(np.float32)
    bad = x.copy()
    bad[9, 70] = number
    got, exact = product(weights)(bad), product(weights, coarse=0)(bad)
    others = np.arange(24) != 9
    assert np.array_equal(got[~others], exact[~others], equal_nan=True)  # such an eight keeps 15 bits where it matters
    difference = np.abs(got[others] - exact[others]).max() / np.abs(exact[others]).mean()
    assert difference < 0.1


@pytest.mark.parametrize("coarse", [-1, 2, 2**32, 2**32 + 1])
@pytest.mark.parametrize("entries", [(), (kernels.EXACT,)])
def test_a_product_that_is_coarse_in_another_way_is_refused(coarse, entries):
    with pytest.raises(Exception, match="edgesink refuses the call: coarse is 0 or 1"):
        product(MATRICES["one block"], entries, coarse=coarse)(np.ones((1, 32)))


# ---- whole models


def test_all_of_an_exported_graph_is_coarse_but_the_head(toy_maker, tmp_path):
    toy = toy_maker(tmp_path / "toy")
    graph = onnx.load(toy.bundle(tmp_path / "bundle", StreamSpec(3, 13, 8, 5), "int4") / KERNELS_GRAPH).graph
    products = [node for node in graph.node if node.op_type == "BlockProduct"]
    coarse = [any(one.name == "coarse" and one.i == 1 for one in node.attribute) for node in products]
    assert coarse == [True] * (len(products) - 1) + [False]
    attentions = [node for node in graph.node if node.op_type == "RingAttention"]
    assert attentions
    assert all(any(one.name == "coarse" and one.i == 1 for one in node.attribute) for node in attentions)


def test_prompts_of_the_real_model_are_near_what_they_are_exactly(smollm2_bundles, english):
    bundle = smollm2_bundles("int4", StreamSpec.fitted(window=252))
    found = []
    for exact in (True, False):
        stream = load(bundle, exact=exact)
        stream.prefill(english[:256])  # as much as a token sees
        chunks = [stream.feed_all(english[place : place + 64], 64).copy() for place in (256, 320, 384)]
        found.append(np.concatenate(chunks))
    expected, got = (logits - logits.max(-1, keepdims=True) for logits in found)
    difference, same = np.abs(got - expected), (expected.argmax(-1) == got.argmax(-1)).mean()
    likely, more = np.exp(expected), np.log(np.exp(got).sum(-1)) - np.log(np.exp(expected).sum(-1))
    divergence = ((likely * (expected - got)).sum(-1) / likely.sum(-1) + more).mean()
    report = f"max |Δ| {difference.max():.2f}, KL {divergence:.1e}, same first choice {same:.3f}"
    assert difference.max() > 0.1, report  # it is coarse
    assert divergence < 2e-3, report
    assert same > 0.95, report


def test_short_passes_of_the_real_model_are_the_same_in_an_exact_stream(smollm2_bundles, english):
    bundle = smollm2_bundles("int4", StreamSpec.fitted(window=252))
    streams = [load(bundle, exact=exact) for exact in (False, True)]
    for size in (8, 1, 5, 8):  # short passes are the same in both
        short = [stream.prefill(english[:size]) for stream in streams]
        assert np.array_equal(*short)
    for size in (16, 9, 2):  # and longer ones that check a draft
        rows = [stream.feed_all(english[:size], size) for stream in streams]
        assert np.array_equal(*rows)
    assert not np.array_equal(*[stream.prefill(english[:16]) for stream in streams])
    assert not np.array_equal(*[stream.prefill(english[:64]) for stream in streams])


@pytest.mark.parametrize("without", [{"kernels": False}, {"provider": "plain"}, {"provider": "cuda"}])
def test_exact_without_kernels_is_refused(tmp_path, without):
    with pytest.raises(BadOption, match="exact without kernels"):
        load(tmp_path, exact=True, **without)
