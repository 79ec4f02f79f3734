"""How weights lie in the data file, byte by byte, and that standard operators find the way back."""

from contextlib import closing

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from packed import of_gguf, random_blocks

from edgesink.export.blocks import Blocks
from edgesink.export.gguf_blocks import KINDS, from_gguf
from edgesink.export.halves import HALVES as FLOATS
from edgesink.export.halves import Halves, halves_of_gguf
from edgesink.export.quantize import quantize
from edgesink.export.to_onnx.builder import Graph, WeightFile
from edgesink.export.to_onnx.layout import laid_out, side_by_side, words
from edgesink.export.to_onnx.ops import OnnxOps
from edgesink.export.to_onnx.weights import OnnxWeights


def test_rows_lie_side_by_side_filled_up_with_zeros():
    laid = side_by_side(np.arange(1, 35).reshape(17, 2))
    assert laid.shape == (2, 2, 16)
    assert laid[0, 0, :3].tolist() == [1, 3, 5]
    assert laid[0, 1, :3].tolist() == [2, 4, 6]
    assert laid[1].tolist() == [[33] + [0] * 15, [34] + [0] * 15]


COLUMNS = np.arange(32)


def test_codes_of_8_bits_lie_in_the_order_of_columns():
    assert words(COLUMNS.astype(np.uint8)[None], 8).tolist() == COLUMNS.reshape(1, 8, 4).tolist()


def test_nibbles_are_the_first_half_and_the_second():
    found = words((COLUMNS % 16).astype(np.uint8)[None], 4)
    assert found.tolist() == [[[17 * (4 * i + c) for c in range(4)] for i in range(4)]]


@pytest.mark.parametrize("column", [0, 5, 30])
def test_the_fifth_bit_of_a_column_is_a_bit_of_the_fifth_word(column):
    found = words((16 * (column == COLUMNS)).astype(np.uint8)[None], 5)[0]
    assert not found[:4].any()
    assert found[4].tolist() == [1 << column // 4 if byte == column % 4 else 0 for byte in range(4)]


@pytest.mark.parametrize(
    ("column", "word", "byte", "place"), [(0, 4, 0, 0), (7, 4, 3, 2), (17, 5, 1, 0), (31, 5, 3, 6)]
)
def test_the_fifth_and_sixth_bit_of_a_column_are_two_bits_of_another_word(column, word, byte, place):
    found = words((48 * (column == COLUMNS)).astype(np.uint8)[None], 6)[0]
    assert found[word, byte] == 3 << place
    assert np.count_nonzero(found) == 1


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
def test_a_row_takes_as_many_words_as_it_has_bits_for_each_block(bits):
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (21, 96), dtype=np.uint8)
    laid = laid_out(Blocks(codes, np.ones((21, 3), np.float16), bits))
    assert laid["codes"].shape == (2, 3 * bits, 16, 4)
    assert laid["scale"].shape == (2, 3, 16)


HALVES = np.array([-0.03, 0.002, 0.05, -0.01])


@pytest.mark.parametrize("kind", [*KINDS, *FLOATS])
def test_a_tensor_lies_as_the_kernels_tests_have_it(kind):
    data = random_blocks(kind, 37, 512, HALVES)
    expected = of_gguf(kind, data).tensors
    found = laid_out(blocks_of(kind))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array), name


def blocks_of(kind: str) -> Blocks | Halves:
    """Of a tensor of this type; else of a matrix rounded to so many bits."""
    if kind in FLOATS:
        return halves_of_gguf(random_blocks(kind, 37, 512, HALVES), kind)
    if kind in KINDS:
        return from_gguf(random_blocks(kind, 37, 512, HALVES), kind, 512)
    return quantize(np.random.default_rng(0).normal(size=(37, 512)).astype(np.float32), int(kind))


@pytest.fixture(params=[*KINDS, *FLOATS, "4", "8"])
def graph(request, tmp_path):
    """A product with a matrix, and rows of it: the weight, ONNX Runtime's session."""
    import onnxruntime as ort

    weight = blocks_of(request.param)
    file = WeightFile(tmp_path / "weights")
    made = Graph(file)
    ops = OnnxOps(made, OnnxWeights(file, lambda name: weight), float_activations=True)
    ids, x = made.input("ids", np.int64, [1, "T"]), made.input("x", np.float32, [1, "T", 512])
    made.output(made.node("Identity", ops.embed(ids, "embedding", 1), name="rows"), [1, "T", 512])
    made.output(made.node("Identity", ops.head(x, "embedding"), name="product"), [1, "T", 37])
    made.save(tmp_path / "graph.onnx", "graph")
    file.close()
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    options.log_severity_level = 3
    session = ort.InferenceSession(tmp_path / "graph.onnx", options, providers=["CPUExecutionProvider"])
    return weight, session, tmp_path


def test_rows_are_looked_up_as_they_are(graph):
    weight, session, _ = graph
    ids = np.array([[36, 0, 17, 16, 15, 1]])
    (rows,) = session.run(["rows"], {"ids": ids, "x": np.zeros((1, 1, 512), np.float32)})
    np.testing.assert_allclose(rows[0], weight.dequantized()[ids[0]], rtol=1e-6, atol=1e-9)


def test_a_product_is_that_with_the_very_weights(graph):
    """In 4 bits activations are left as they are; of 8 bits ONNX Runtime rounds them."""
    weight, session, _ = graph
    x = np.random.default_rng(1).normal(size=(1, 3, 512)).astype(np.float32)
    (product,) = session.run(["product"], {"ids": np.zeros((1, 1), np.int64), "x": x})
    expected = x[0] @ weight.dequantized().T
    off = np.abs(product[0] - expected).max() / np.abs(expected).std()
    is_near = isinstance(weight, Halves) or (weight.bits == 4 and not weight.is_table)
    assert off < (1e-5 if is_near else 0.05)


def test_a_matrix_is_unpacked_when_the_model_is_loaded(graph):
    """What is left of the product: factors of MatMulNBits, each over constants, and the sums of blocks."""
    weight, _, folder = graph
    model = onnx.load(folder / "folded.onnx")
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    if isinstance(weight, Halves):
        (product,) = (node for node in model.graph.node if node.op_type == "MatMul")
        assert np.array_equal(held[product.input[1]].T, weight.dequantized())
        return
    factors = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    assert len(factors) == (2 if weight.bits in (5, 6) else 1)
    found = sum(dequantized(node, held) for node in factors)
    in_order = COLUMNS.reshape(-1, 2, {8: 1, 6: 8}.get(weight.bits, 16)).swapaxes(1, 2).reshape(-1)
    expected = weight.dequantized().reshape(37, -1, 32)[..., COLUMNS if weight.bits == 8 else in_order].reshape(37, -1)
    if weight.offset is not None:
        rest = next(held[node.input[1]] for node in model.graph.node if node.op_type == "MatMul")
        found = found + np.repeat(rest.T, 32, axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def dequantized(node: onnx.NodeProto, held: dict[str, np.ndarray]) -> np.ndarray:
    """What a MatMulNBits of 37 rows multiplies with."""
    numbers = {attribute.name: attribute.i for attribute in node.attribute}
    codes, scale, *zero = (held[name] for name in node.input[1:])
    codes = np.stack([codes & 15, codes >> 4], axis=-1) if numbers["bits"] == 4 else codes
    middle = zero[0].flat[0] & 15 if zero else 1 << (numbers["bits"] - 1)
    return ((codes.reshape(*scale.shape, -1) - np.float64(middle)) * scale[..., None]).reshape(37, -1)


@pytest.mark.parametrize("kind", ["blocks", "floats"])
@pytest.mark.parametrize(("rows", "in_turn"), [(32, True), (40, False)])
def test_groups_of_two_matrices_that_are_multiplied_together_lie_in_turn(tmp_path, kind, rows, in_turn):
    random = np.random.default_rng(5)
    held = {
        name: quantize(random.standard_normal((rows, 64)).astype(np.float32), 4)
        if kind == "blocks"
        else Halves(random.integers(0, 256, (rows, 128), np.uint8), is_bfloat=False)
        for name in ("gate", "up")
    }
    with closing(WeightFile(tmp_path / "weights")) as file:
        (stored,) = OnnxWeights(file, held.__getitem__).pair("gate", "up")
        found = stored.in_turn, stored.rows, stored.parts, stored.name
    assert found == (in_turn, 2 * rows, 2, "gate+up")
    both = [laid_out(held[name])["codes"] for name in ("gate", "up")]
    if in_turn:
        expected = np.stack(both, axis=1).reshape(-1, *both[0].shape[1:])
    else:
        expected = side_by_side(np.concatenate([words(held[name].codes, held[name].bits) for name in ("gate", "up")]))
    assert (tmp_path / "weights").read_bytes().startswith(expected.tobytes())


def test_two_matrices_that_are_held_otherwise_are_two(tmp_path):
    held = {"gate": quantize(np.ones((32, 64), np.float32), 4), "up": quantize(np.ones((32, 64), np.float32), 8)}
    with closing(WeightFile(tmp_path / "weights")) as file:
        stored = OnnxWeights(file, held.__getitem__).pair("gate", "up")
        assert [(one.name, one.rows, one.in_turn) for one in stored] == [("gate", 32, False), ("up", 32, False)]
