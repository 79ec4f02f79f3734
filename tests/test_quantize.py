"""Blocks against values worked out by hand, against the GGUF library, and against each other."""

import numpy as np
import pytest

from edgesink.export.checkpoint import GgufCheckpoint
from edgesink.export.quantize import Blocks, from_gguf, quantize, stacked
from edgesink.export.to_onnx.weights import with_zero_residual


def random_matrix(rows: int = 8, columns: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def test_a_block_means_scale_times_code_minus_zero():
    codes = np.arange(32, dtype=np.uint8).reshape(1, 32) % 16
    blocks = Blocks(codes, np.array([[0.5]], np.float32), np.array([[3.0]], np.float32), 4)
    assert blocks.dequantized()[0, :5].tolist() == [-1.5, -1.0, -0.5, 0.0, 0.5]


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


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_gguf_blocks_are_carried_over_exactly(kind):
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize
    from gguf.quants import quantize as gguf_quantize

    weight = random_matrix()
    weight[0, :32] = 0.25  # a block of one value
    weight[1, :32] = 0
    data = gguf_quantize(weight, GGMLQuantizationType[kind])
    blocks = from_gguf(data, kind, *weight.shape)
    expected = dequantize(data, GGMLQuantizationType[kind])
    assert np.abs(blocks.dequantized() - expected).max() < 1e-6


def test_q4_k_is_carried_over_exactly():
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    random = np.random.default_rng(2)
    data = random.integers(0, 256, (5, 3 * 144), dtype=np.uint8)  # 5 rows of 3 super-blocks
    scales = random.uniform(0, 0.01, (5, 3, 2)).astype(np.float16)  # d and dmin: any bytes might be no numbers
    data.reshape(5, 3, 144)[..., 0:4] = scales.view(np.uint8)
    data[0, 4:8] = 0  # factors of 0: blocks of one value
    blocks = from_gguf(data, "Q4_K", 5, 768)
    assert blocks.bits == 4
    assert np.abs(blocks.dequantized() - dequantize(data, GGMLQuantizationType.Q4_K)).max() < 1e-6


def test_other_gguf_kinds_do_not_map():
    assert from_gguf(np.zeros((1, 210), np.uint8), "Q6_K", 1, 256) is None


def test_the_real_models_blocks_are_its_weights(smollm2):
    checkpoint = GgufCheckpoint(smollm2)
    for weight in ("layers.3.q", "layers.3.k", "layers.3.down", "embedding"):
        blocks = checkpoint.blocks(weight)
        assert np.abs(blocks.dequantized() - checkpoint.tensor(weight)).max() < 2e-6, weight


def test_whole_zeros_and_residual_columns_say_the_same_product(smollm2):
    blocks = GgufCheckpoint(smollm2).blocks("layers.0.gate")
    assert not blocks.whole_zeros
    wide = with_zero_residual(blocks)
    assert wide.whole_zeros
    x = np.random.default_rng(0).normal(size=blocks.shape[1]).astype(np.float32)
    means = x.reshape(-1, 32).mean(-1)
    padded = np.zeros(wide.shape[1], np.float32)
    padded[: x.size + means.size] = np.concatenate([x, means])
    exact, got = blocks.dequantized() @ x, wide.dequantized() @ padded
    rounded = (blocks.scale * (np.rint(blocks.zero) - blocks.zero)) @ (32 * means)
    assert np.abs(got - exact).max() < 0.2 * np.abs(rounded).max(), "the residual makes up for the rounding"
