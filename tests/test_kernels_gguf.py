"""GGUF's own bits in our operators, on every instruction set that is here.

Rows as `gguf` reads them, bit for bit, and products with them against float64.
"""

from functools import cache

import numpy as np
import packed
import pytest
from kernel_nodes import PRODUCT_INPUTS, gate_and_up, session_of
from onnx import TensorProto, helper

ROWS, COLUMNS = 70, 512  # a group is not full; two blocks of 256 columns

USUAL = np.array([-0.03, -0.01, 0.002, 0.01, 0.02, 0.05])
EXTREME = np.array([65504, -65504, 6e-8, -6e-8, 1e-5, 6.1e-5, 0.0, -0.0, 1 / 3, -1.0])


def looked_up(matrix: packed.Packed) -> np.ndarray:
    """All rows, by the operator."""
    rows, columns = matrix.values.shape
    inputs = ("ids", "codes", "scale", "offset", "factors", "offset_factors")
    node = helper.make_node("BlockRows", _given(inputs, matrix), ["y"], columns=columns, **matrix.attributes)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "T"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "T", columns])
    return session_of([node], [ids], [y], matrix.tensors).run(None, {"ids": np.arange(rows)[None]})[0][0]


def product(matrix: packed.Packed, x: np.ndarray, gated: int = 0, **vectors: np.ndarray) -> np.ndarray:
    """x [T, K] times the weights, with all that is in `vectors`, by the operator: [T, N]."""
    width = len(matrix.values) // (2 if gated else 1)
    residual = vectors.pop("residual", None)
    given = {"x": x} | ({} if residual is None else {"residual": residual})
    tensors = matrix.tensors | vectors
    inputs = _given(PRODUCT_INPUTS, matrix, *given, *vectors)
    node = helper.make_node("BlockProduct", inputs, ["y"], gated=gated, epsilon=1e-3, **matrix.attributes)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *y.shape]) for name, y in given.items()]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "T", width])
    feeds = {name: array[None].astype(np.float32) for name, array in given.items()}
    return session_of([node], ends, [y], tensors).run(None, feeds)[0][0]


def _given(names: tuple[str, ...], matrix: packed.Packed, *more: str) -> list[str]:
    """The inputs of a node, those that are left out empty, none at the end."""
    inputs = [name if name in {"ids", *matrix.tensors, *more} else "" for name in names]
    while not inputs[-1]:
        inputs.pop()
    return inputs


@cache
def usual(kind: str, rows: int = ROWS) -> packed.Packed:
    return packed.of_gguf(kind, packed.random_blocks(kind, rows, COLUMNS, USUAL, seed=rows))


def largest_error(x: np.ndarray, values: np.ndarray, exact: bool = False) -> np.ndarray:
    """Of x [T, K] @ values.T: half of the last of 15 bits of a block of 32 columns, if not exact; and float32's own."""
    blocks = x.reshape(len(x), -1, 32), values.astype(float).reshape(len(values), -1, 32)
    most = np.abs(blocks[0]).max(-1)  # [T, blocks]
    steps = most / (2 * 127 * 128) @ np.abs(blocks[1]).sum(-1).T
    return (0 if exact else steps) + 2.0**-22 * 32 * (most @ np.abs(blocks[1]).max(-1).T)


def test_codes_lie_as_they_are_said_to():
    codes = np.zeros((1, 32), int)
    codes[0, [5, 21, 30]] = 0b110110, 0b011001, 0b101111
    laid = packed.lay_codes(codes, 6)
    assert laid.shape == (1, 6, 16, 4)
    assert laid[0, 1, 0, 1] == 0b1001_0110  # byte 1 of vector 1: columns 5 and 21
    assert laid[0, 3, 0, 2] == 0b1111_0000  # byte 2 of vector 3: columns 14 and 30
    assert laid[0, 4, 0, 1] == 0b11 << 2  # of the first half, bits 2 j and 2 j + 1 of byte c: column 4 j + c = 5
    assert laid[0, 5, 0].tolist() == [0, 0b01 << 2, 0b10 << 6, 0]  # columns 16 + 5 and 16 + 14
    assert packed.lay_codes(codes & 31, 5)[0, 4, 0].tolist() == [0, 1 << 1 | 1 << 5, 0, 0]


@pytest.mark.parametrize("halves", [USUAL, EXTREME], ids=["usual", "extreme"])
@pytest.mark.parametrize("kind", packed.TYPES)
def test_a_row_is_what_the_file_says_bit_for_bit(instructions, kind, halves):
    matrix = packed.of_gguf(kind, packed.random_blocks(kind, ROWS, COLUMNS, halves))
    assert looked_up(matrix).tobytes() == matrix.values.tobytes()


@pytest.mark.parametrize("byte", [0, 0xFF, 0x5A])
@pytest.mark.parametrize("kind", packed.TYPES)
def test_a_row_of_equal_codes_is_what_the_file_says(instructions, kind, byte):
    blocks = packed.random_blocks(kind, 16, 256, EXTREME)
    size, _, places = packed.TYPES[kind]
    halves = sorted({place + i for place in places for i in (0, 1)})
    blocks.reshape(16, -1, size)[..., [i for i in range(size) if i not in halves]] = byte
    matrix = packed.of_gguf(kind, blocks)
    assert looked_up(matrix).tobytes() == matrix.values.tobytes()


@pytest.mark.parametrize("tokens", [1, 2, 5, 8, 64])
@pytest.mark.parametrize("kind", packed.TYPES)
def test_a_product_is_that_of_the_files_weights(instructions, kind, tokens):
    matrix, random = usual(kind), np.random.default_rng(tokens)
    x = random.standard_normal((tokens, COLUMNS)).astype(np.float32)
    error = np.abs(product(matrix, x) - x.astype(float) @ matrix.values.T.astype(float))
    most = largest_error(x, matrix.values, exact=kind in packed.FLOATS)
    assert (error <= most).all(), (error / most).max()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("byte", [0, 0xFF])
@pytest.mark.parametrize("kind", packed.TYPES)
def test_a_product_of_the_largest_codes_and_activations_does_not_overflow(instructions, kind, byte, sign):
    size, _, places = packed.TYPES[kind]
    blocks = packed.random_blocks(kind, 16, 256, USUAL[:1]).reshape(16, -1, size)
    halves = blocks[..., [place + i for place in places for i in (0, 1)]].copy()
    blocks[...] = byte
    blocks[..., [place + i for place in places for i in (0, 1)]] = halves
    matrix = packed.of_gguf(kind, blocks.reshape(16, -1))
    x = np.full((5, 256), sign, np.float32)
    expected = x.astype(float) @ matrix.values.T.astype(float)
    assert np.allclose(product(matrix, x), expected, rtol=1e-4, atol=1e-4 * np.abs(matrix.values).sum(-1).max())


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("kind", packed.TYPES)
def test_norm_bias_and_residual_go_along(instructions, kind, tokens):
    matrix, random = usual(kind), np.random.default_rng(7)
    x, residual = random.standard_normal((tokens, COLUMNS)), random.standard_normal((tokens, ROWS))
    norm, bias = random.random(COLUMNS).astype(np.float32), random.random(ROWS).astype(np.float32)
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * norm
    got = product(matrix, x.astype(np.float32), norm=norm, bias=bias, residual=residual)
    error = np.abs(got - (normed @ matrix.values.T.astype(float) + bias + residual))
    assert (error <= 1.01 * largest_error(normed, matrix.values) + 1e-6).all()


@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize("kind", packed.TYPES)
@pytest.mark.parametrize("gated", [1, 3])
def test_a_norm_comes_after_and_a_gate_goes_between(instructions, gated, kind, tokens):
    matrix, random = usual(kind, rows=96), np.random.default_rng(8)
    x, after = random.standard_normal((tokens, COLUMNS)), random.random(96).astype(np.float32)
    x /= np.abs(x @ matrix.values.T.astype(float)).mean()
    y, slack = x @ matrix.values.T.astype(float), 4 * largest_error(x, matrix.values).max()  # y is about 1
    normed = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-3) * after
    assert np.abs(product(matrix, x.astype(np.float32), after=after) - normed).max() <= slack
    gate, up = gate_and_up(y, gated)
    expected = gate / (1 + np.exp(-gate)) * up
    assert np.abs(product(matrix, x.astype(np.float32), gated=gated) - expected).max() <= slack * np.abs(y).max()
