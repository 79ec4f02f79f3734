"""The state's memory: rows that grow while a stream is young, and the same logits as with all of them."""

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from edgesink import load
from edgesink.manifest import Manifest
from edgesink.runtime.ring_state import RingState, rows_for
from edgesink.spec import StreamSpec

SPEC = StreamSpec(sinks=3, window=300, max_sinks=200, chunk=16)  # 318 rows
IDS = np.random.default_rng(5).integers(2, 258, 700)


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("rows") / "bundle", SPEC, "fp32")


@pytest.mark.parametrize(
    ("needed", "rows", "most", "expected"),
    [
        (1, 0, 1083, 128), (128, 0, 1083, 128), (129, 128, 1083, 256), (513, 512, 1083, 640), (641, 640, 1083, 896),
        (1025, 1024, 1083, 1083), (5000, 0, 1083, 1083), (1, 0, 31, 31),
    ],
)  # fmt: skip
def test_rows_grow_by_a_quarter_at_least_in_steps_of_128_and_never_beyond_the_ring(needed, rows, most, expected):
    assert rows_for(needed, rows, most) == expected


@pytest.mark.parametrize("sinks", [0, 3, 200])
def test_a_young_stream_computes_what_one_with_all_its_rows_does(bundle, sinks):
    young, whole = load(bundle, threads=1, sinks=sinks), load(bundle, threads=1, sinks=sinks)
    whole._backend._graph.state._grows = False
    seen, start = set(), 0
    for size in [1, 1, 16, 100, 9, 1, 1, 128, 40, 1, 1, 20, 300, 1]:
        piece = IDS[start : start + size]
        start += size
        found, expected = young.prefill(piece), whole.prefill(piece)
        difference = np.abs(found - expected)
        assert difference.max() < 1e-5, f"at {start}: max {difference.max():.1e}, mean {difference.mean():.1e}"
        seen.add(young._backend._graph.state.rows)
    assert len(seen) > 1
    assert max(seen) == SPEC.rows
    young.reset()
    np.testing.assert_allclose(young.prefill(IDS[:5]), load(bundle, threads=1, sinks=sinks).prefill(IDS[:5]), atol=1e-5)


def test_rows_grow_within_memory_that_was_there_from_the_start(bundle):
    stream = load(bundle)
    state = stream._backend._graph.state
    memory = {name: (array.ctypes.data, array.nbytes) for name, array in state._memory.items()}
    assert sum(size for _, size in memory.values()) == stream.state_bytes
    for size in (1, 200, 300):
        stream.prefill(IDS[:size])
        for name, value in state._values.items():
            assert value.numpy().ctypes.data == memory[name][0]
            assert value.numpy().nbytes <= memory[name][1]


def test_a_young_stream_is_saved_and_restored_whole(bundle, tmp_path):
    stream = load(bundle)
    stream.prefill(IDS[:150])
    stream.save(tmp_path / "session")
    expected = stream.step(7)
    other = load(bundle)
    other.prefill(IDS[:20])
    other.restore(tmp_path / "session")
    np.testing.assert_allclose(other.step(7), expected, atol=1e-5)


def test_a_graph_that_was_exported_for_a_fixed_number_of_rows_gets_them_all(bundle):
    class Binding:
        shapes: ClassVar[set[tuple[int, ...]]] = set()

        def bind_ortvalue_input(self, name, value):
            self.shapes.add(tuple(value.shape()))

        bind_ortvalue_output = bind_ortvalue_input

    fixed = SimpleNamespace(name="key_0", shape=[1, 2, SPEC.rows, 16], type="tensor(float)")
    session = SimpleNamespace(get_inputs=lambda: [SimpleNamespace(name="ids", shape=[1, "T"]), fixed])
    state = RingState(session, Binding(), Manifest.read(bundle), "cpu")
    for position in (0, 5, 200, 1000):
        state.make_room(position, 1, 3)
    assert Binding.shapes == {(1, 2, SPEC.rows, 16)}
