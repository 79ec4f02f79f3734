"""Blocks against values worked out by hand, against the GGUF library, and against each other."""

import numpy as np
import pytest
from packed import random_blocks

from edgesink.errors import BadOption
from edgesink.export.blocks import Blocks, stacked
from edgesink.export.checkpoint import GgufCheckpoint
from edgesink.export.gguf_blocks import KINDS, bits_of, from_gguf
from edgesink.export.quantize import quantize

HALVES = np.array([-0.03, 0.002, 0.05, 6e-8, 0.0, -0.0, 65504])  # scales as tensors may have them


def random_matrix(rows: int = 8, columns: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def test_a_code_is_worth_its_scale_and_an_offset():
    codes = np.arange(32, dtype=np.uint8).reshape(1, 32) % 16
    scale, offset = np.array([[0.5]], np.float16), np.array([[-1.5]], np.float16)
    assert Blocks(codes, scale, 4, offset=offset).dequantized()[0, :5].tolist() == [-1.5, -1.0, -0.5, 0.0, 0.5]
    assert Blocks(codes, scale, 4).dequantized()[0, :5].tolist() == [-4.0, -3.5, -3.0, -2.5, -2.0]
    assert Blocks(codes, scale, 4, is_table=True).dequantized()[0, :3].tolist() == [-63.5, -52.0, -41.5]


def test_factors_multiply_the_scale_and_the_offset_of_a_super_block():
    factors = np.array([[1, -2, 3, 0, 5, 6, 7, 8]], np.int8)
    halves = np.array([[0.5]], np.float16), np.array([[-1.0]], np.float16)
    blocks = Blocks(np.full((1, 256), 2, np.uint8), halves[0], 4, factors, halves[1], factors[:, ::-1])
    assert blocks.dequantized()[0, ::32].tolist() == [1 - 8, -2 - 7, 3 - 6, 0 - 5, 5 - 0, 6 - 3, 7 + 2, 8 - 1]
    assert blocks.block == 32


@pytest.mark.parametrize(("bits", "steps"), [(8, 127), (4, 7.5)])
def test_rounding_errs_by_about_half_a_step(bits, steps):
    weight = random_matrix()
    worst = np.abs(weight).reshape(8, 2, 32).max(-1).repeat(32, -1).reshape(8, 64)
    error = np.abs(quantize(weight, bits).dequantized() - weight)
    assert np.mean(error) < 0.3 * np.mean(worst / steps)


def test_four_bits_use_the_whole_range_of_a_lopsided_block():
    weight = np.linspace(0, 15, 32, dtype=np.float32).reshape(1, 32)
    assert np.abs(quantize(weight, 4).dequantized() - weight).max() <= 0.6


def test_zeros_stay_zeros():
    weight = np.zeros((2, 32), np.float32)
    for bits in (4, 8):
        assert (quantize(weight, bits).dequantized() == 0).all()


def test_stacking_is_concatenating():
    first, second = quantize(random_matrix(seed=1), 4), quantize(random_matrix(seed=2), 4)
    expected = np.concatenate([first.dequantized(), second.dequantized()])
    assert np.array_equal(stacked([first, second]).dequantized(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gguf_blocks_are_carried_over_bit_by_bit(kind):
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    data = random_blocks(kind, 37, 768, HALVES)
    blocks = from_gguf(data, kind, 768)
    expected = dequantize(data, GGMLQuantizationType[kind])
    assert len(np.unique(blocks.codes)) == 1 << blocks.bits, "every code is tried"
    assert np.array_equal(blocks.dequantized(), expected)
    order = np.random.default_rng(0).permutation(37)
    assert np.array_equal(blocks.rows(order).dequantized(), expected[order])
    assert np.array_equal(
        stacked([blocks, blocks.rows(order)]).dequantized(), np.concatenate([expected, expected[order]])
    )
    assert blocks.bits == bits_of(kind)
    assert blocks.nbytes <= data.nbytes * 1.03


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_what_gguf_rounds_is_what_is_carried_over(kind):
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    data = quantize(random_matrix(8, 512), GGMLQuantizationType[kind])
    assert np.array_equal(from_gguf(data, kind, 512).dequantized(), dequantize(data, GGMLQuantizationType[kind]))


def test_values_beyond_float16_are_refused():
    weight = random_matrix()
    weight[3, 5] = -1e5
    for bits in (4, 8):
        with pytest.raises(BadOption, match=r"magnitude 1e\+05"):
            quantize(weight, bits)


def test_the_real_models_blocks_are_its_weights(smollm2):
    checkpoint = GgufCheckpoint(smollm2)
    for weight in ("layers.3.q", "layers.3.k", "layers.3.down", "embedding"):
        blocks = checkpoint.blocks(weight)
        assert np.array_equal(blocks.dequantized(), checkpoint.tensor(weight)), weight
