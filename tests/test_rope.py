"""Rotary frequencies and amplitudes are transformers' own, to float32."""

import numpy as np
import pytest

from edgesink.errors import BadCheckpoint
from edgesink.export.families.fields import Fields
from edgesink.export.families.frequencies import YarnScaling, plain, yarn
from edgesink.export.families.rope import rotary_of_config
from edgesink.export.families.spelling import halves_first, turning_halves_apart

ULP = 2.0**-23  # of float32, relative; theirs is a few roundings in float32, ours one
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip

KINDS = {
    "linear": {"rope_type": "linear", "factor": 8.0},
    "llama3": LLAMA3,
    "llama3, another factor": LLAMA3 | {"factor": 32.0},
    "yarn": YARN,
    "yarn, other borders": YARN | {"beta_fast": 16.0, "beta_slow": 2.0},
    "yarn, borders between pairs": YARN | {"truncate": False},
    "yarn, its amplitude": YARN | {"attention_factor": 0.9},
    "yarn, mscale": YARN | {"mscale": 0.707, "mscale_all_dim": 1.0},
    "yarn, one mscale": YARN | {"mscale": 0.707},
    "yarn, no stretch": YARN | {"factor": 1.0},
    "yarn, a short context": YARN | {"original_max_position_embeddings": 16},
}


@pytest.mark.parametrize("theta", [100.0, 1e4, 5e5])
@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_are_those_of_transformers(kind, head_dim, theta):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = KINDS[kind] | {"rope_theta": theta}
    config = LlamaConfig(
        hidden_size=4 * head_dim, num_attention_heads=4, max_position_embeddings=32768, rope_parameters=dict(rope)
    )
    theirs, amplitude = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config)
    if "mscale" in rope and "mscale_all_dim" not in rope:
        rope.pop("mscale")  # which transformers then overlooks, and we refuse
    ours = rotary_of_config(Fields({"rope_parameters": rope}, "config.json", {"rope_theta": 1e4}), 32768, head_dim)
    difference = np.abs(np.array(ours.frequencies) / theirs.numpy().astype(np.float64) - 1)
    assert difference.max() < 8 * ULP, f"max {difference.max() / ULP:.1f} ulp"
    assert ours.amplitude == pytest.approx(amplitude, rel=1e-12)


def test_a_field_that_transformers_overlooks_is_refused():
    rope = YARN | {"rope_theta": 1e4, "mscale": 0.707}
    with pytest.raises(BadCheckpoint, match=r"mscale = 0\.707"):
        rotary_of_config(Fields({"rope_parameters": rope}, "config.json", {"rope_theta": 1e4}), 4096, 64)


def test_yarn_by_hand():
    """Of four pairs the first makes 16 / 2 pi turns and is kept, the last less than one and is divided."""
    scaling = YarnScaling(factor=4.0, original_context=100, beta_fast=8.0, beta_slow=1.0)
    frequencies = yarn(10.0, 8, scaling)  # borders: pairs floor(1.2) = 1 and ceil(4.8) = 5
    assert np.allclose(frequencies / plain(10.0, 8), [1, 1, 1 - 0.25 * 0.75, 1 - 0.5 * 0.75])


def test_orders_of_rows_by_hand():
    assert halves_first(2, 6).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert turning_halves_apart(8, 4).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    assert turning_halves_apart(6, 6).tolist() == [0, 1, 2, 3, 4, 5]
