"""The oracle holds what its keys and values weigh, and no more."""

import os
import subprocess
import sys

import pytest

WINDOW = 1020
GROWTH = f"""
import sys
import torch
from edgesink.gauges import own_bytes
from edgesink.reference import Reference

oracle = Reference(sys.argv[1], 4, {WINDOW}, dtype=torch.float64)
oracle.prefill(range(2, 50))
early = own_bytes()
oracle.prefill([7] * {WINDOW + 250})
held = sum(layer.keys.nbytes + layer.values.nbytes for layer in oracle._ring.layers)
print(held, own_bytes() - early)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads its own memory as Linux gives it")
def test_the_oracle_grows_by_its_keys_and_values_and_then_no_more(toy_maker, tmp_path):
    """Heads of SmolLM2's size: a block for each token, among copies of all, once left 150 MB of holes.

    In a process of its own: what other tests freed is a heap in which any growth could hide, or seem to be.
    """
    toy = toy_maker(tmp_path / "toy", hidden_size=72, num_attention_heads=9, num_key_value_heads=3, head_dim=64)
    command = [sys.executable, "-P", "-c", GROWTH, toy.path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    held, grown = map(int, done.stdout.split())
    assert held == 2 * 3 * (4 + WINDOW) * 3 * 64 * 8
    assert grown < held + (24 << 20), f"{grown / 1e6:.0f} MB"
