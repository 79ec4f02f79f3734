"""Memory that stays what it was, on the real model."""

import os

import pytest

from edgesink import load
from edgesink.gauges import resident_bytes
from edgesink.spec import StreamSpec

STREAM = StreamSpec(4, 252, 64, 64)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads resident memory as Linux gives it")
@pytest.mark.parametrize(("tokens", "from_token"), [(800, 400), pytest.param(20_000, 1_000, marks=pytest.mark.slow)])
def test_resident_memory_is_flat(smollm2_bundles, tokens, from_token):
    stream = load(smollm2_bundles("int4", STREAM))
    logits, early = stream.prefill([1, 2, 3]), 0
    while stream.position < tokens:
        logits = stream.step(int(logits.argmax()))
        if stream.position == from_token:
            early = resident_bytes()
    grown = resident_bytes() - early
    assert stream.evicted == tokens - stream.capacity
    assert grown < 4 << 20, f"{grown / 1e6:.1f} MB more at token {tokens} than at token {from_token}"
