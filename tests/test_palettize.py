"""Weights as small tables and indices, and as blocks that float16 can hold."""

import numpy as np
import pytest
from packed import random_blocks

from edgesink.export.blocks import Blocks
from edgesink.export.gguf_blocks import KINDS, from_gguf
from edgesink.export.palettize import palettize
from edgesink.export.quantize import quantize
from edgesink.export.to_coreml.builder import _with_zeros, held_parts


def test_values_that_fit_a_table_are_kept_exactly():
    values = np.array([-4, -2, -1, 0, 0.5, 1, 3, 8] * 2, np.float32)
    weight = np.stack([values, values[::-1], 2 * values, -values])  # two groups of two rows
    made = palettize(weight, 4, 2)
    assert made.table.shape == (2, 16)
    np.testing.assert_array_equal(made.dequantized(), weight)


def test_each_code_is_the_nearest_value_of_its_table():
    weight = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    made = palettize(weight, 4, 4)
    tables = np.repeat(made.table, 4, axis=0)[:, None, :]  # [8, 1, 16]
    nearest = np.abs(weight[..., None] - tables).min(-1)
    np.testing.assert_allclose(np.abs(made.dequantized() - weight), nearest, atol=1e-6)
    assert np.mean((made.dequantized() - weight) ** 2) < 0.0125  # a uniform grid over the range: 0.03


def test_rows_that_no_group_divides_have_a_table_each():
    assert palettize(np.ones((3, 32), np.float32), 4, 8).table.shape == (3, 16)


@pytest.mark.parametrize("zero", [7.25, -1e5])
def test_a_block_of_nearly_equal_values_survives_float16(zero):
    codes = np.tile(np.arange(16, dtype=np.uint8), 2)[None]
    scale = np.full((1, 1), 1e-5, np.float16)
    weight = Blocks(codes, scale, 4, offset=(-zero * scale.astype(np.float32)).astype(np.float16))
    codes, scale, zeros = _with_zeros(weight)
    assert np.abs(zeros).max() <= 2048
    np.testing.assert_allclose(scale * (codes - zeros), weight.dequantized(), rtol=1 / 270, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_holds_a_gguf_as_near_as_float16_scales_allow(kind):
    weight = from_gguf(random_blocks(kind, 37, 768, np.array([-0.03, 0.002, 0.05])), kind, 768)
    parts = {name: part.array.astype(np.float32) for name, part in held_parts(weight).items()}
    block = 768 // parts["scale"].shape[1]
    shifted = parts["data"] - np.repeat(parts.get("offset", np.float32([[0]])), block if "offset" in parts else 1, 1)
    found, exact = shifted * np.repeat(parts["scale"], block, axis=1), weight.dequantized()
    assert np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)) < 1e-3
    if kind in ("Q4_0", "Q5_0", "Q8_0", "IQ4_NL"):
        assert np.array_equal(found, exact)


def test_whole_zero_points_take_4_bits():
    rounded = quantize(np.random.default_rng(3).normal(size=(8, 64)).astype(np.float32), 4)
    assert {name: part.kind for name, part in held_parts(rounded).items()} == {
        "data": "uint4", "scale": "", "offset": "uint4",
    }  # fmt: skip
