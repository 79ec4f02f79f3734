"""The oracle holds what its keys and values weigh, and no more."""

import os

import pytest

from edgesink.gauges import own_bytes
from edgesink.reference import Reference


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads its own memory as Linux gives it")
def test_the_oracle_grows_by_its_keys_and_values_and_then_no_more(toy_maker, tmp_path):
    """Heads of SmolLM2's size: a block for each token, among copies of all, once left 150 MB of holes."""
    toy = toy_maker(tmp_path / "toy", hidden_size=72, num_attention_heads=9, num_key_value_heads=3, head_dim=64)
    window = 1020
    oracle = Reference(toy.model.double(), 4, window)
    oracle.prefill(range(2, 50))
    early = own_bytes()
    oracle.prefill([7] * (window + 250))
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in oracle._ring.layers)
    assert held == 2 * 3 * (4 + window) * 3 * 64 * 8
    grown = own_bytes() - early
    assert grown < held + (24 << 20), f"{grown / 1e6:.0f} MB"
