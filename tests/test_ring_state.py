"""The state's memory: rows that grow while a stream is young, and the same logits as with all of them."""

import dataclasses
import shutil
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from edgesink import load
from edgesink.errors import BadBundle
from edgesink.manifest import Manifest, replace_manifest
from edgesink.reference import Reference
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


def rings(stream):
    """The buffers of each view."""
    return stream._backend._graph.state._rings


@pytest.mark.parametrize("sinks", [0, 3, 200])
def test_a_young_stream_computes_what_one_with_all_its_rows_does(bundle, sinks):
    young, whole = load(bundle, threads=1, sinks=sinks), load(bundle, threads=1, sinks=sinks)
    for ring in rings(whole):
        ring._grows = False
    seen, start = set(), 0
    for size in [1, 1, 16, 100, 9, 1, 1, 128, 40, 1, 1, 20, 300, 1]:
        piece = IDS[start : start + size]
        start += size
        found, expected = young.prefill(piece), whole.prefill(piece)
        difference = np.abs(found - expected)
        assert difference.max() < 1e-5, f"at {start}: max {difference.max():.1e}, mean {difference.mean():.1e}"
        seen.add(rings(young)[0].rows)
    assert len(seen) > 1
    assert max(seen) == SPEC.rows
    young.reset()
    np.testing.assert_allclose(young.prefill(IDS[:5]), load(bundle, threads=1, sinks=sinks).prefill(IDS[:5]), atol=1e-5)


def test_rows_grow_within_memory_that_was_there_from_the_start(bundle):
    stream = load(bundle)
    (state,) = rings(stream)
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


OWN = StreamSpec(sinks=3, window=300, max_sinks=200, chunk=8)  # 310 rows, and 157 of the layer's own window of 150


@pytest.fixture(scope="module")
def mixed(two_views, tmp_path_factory):
    """A bundle with a layer of its own window."""
    return dataclasses.replace(two_views, window=150).bundle(tmp_path_factory.mktemp("mixed") / "bundle", OWN)


def test_views_grow_apart_each_to_its_own_rows(mixed):
    stream = load(mixed)
    told = []
    for size in (1, 100, 30, 100, 200):
        stream.prefill(IDS[:size])
        told.append([ring.rows for ring in rings(stream)])
    assert told == [[128, 128], [128, 128], [256, 157], [256, 157], [310, 157]]
    assert stream.state_bytes == sum(ring.bytes for ring in rings(stream)) == 4 * 2 * 16 * (4 * 310 + 2 * 157)
    stream.reset(sinks=200)
    stream.step(5)
    assert [ring.rows for ring in rings(stream)] == [256, 128], "sinks are no rows of a layer's own window"


def test_a_young_stream_of_two_views_computes_what_one_with_all_its_rows_does(mixed):
    young, whole = load(mixed, threads=1), load(mixed, threads=1)
    for ring in rings(whole):
        ring._grows = False
    start = 0
    for size in [1, 16, 100, 9, 1, 1, 128, 40, 1, 20, 300, 1]:
        piece = IDS[start : start + size]
        start += size
        difference = np.abs(young.prefill(piece) - whole.prefill(piece))
        assert difference.max() < 1e-5, f"at {start}: max {difference.max():.1e}, mean {difference.mean():.1e}"


@pytest.mark.parametrize("sinks", [0, 3, 20])
def test_layers_of_their_own_window_are_the_oracle_over_laps_of_both_rings(two_views, tmp_path, sinks):
    spec = StreamSpec(sinks=3, window=37, max_sinks=24, chunk=8)
    stream = load(two_views.bundle(tmp_path / "bundle", spec), sinks=sinks)
    oracle = Reference(two_views.model, sinks, spec.capacity - sinks)
    start = 0
    for size in [1, 3, 8, 20, 1, 1, 40, 5, 1, 30, 64, 1]:
        piece = IDS[start : start + size]
        start += size
        difference = np.abs(stream.prefill(piece) - oracle.prefill(piece))
        assert difference.max() < 1e-3, f"at {start}: max {difference.max():.1e}, mean {difference.mean():.1e}"
    assert start > 3 * spec.rows


def test_a_stream_of_two_views_is_saved_and_restored_whole(mixed, tmp_path):
    for tokens in (1, 10, 150, 700):
        stream, other = load(mixed, sinks=2), load(mixed)
        stream.prefill(IDS[:tokens])
        stream.save(tmp_path / "session")
        other.prefill(IDS[:20])
        other.restore(tmp_path / "session")
        assert (other.position, other.sinks) == (tokens, 2)
        written = [s._backend.state()["key_1"][:, :, :tokens] for s in (other, stream)]
        assert np.array_equal(*written)
        np.testing.assert_allclose(other.step(7), stream.step(7), atol=1e-5)


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [(2, {"name": "key_9"}, "key_9 has shape None"), (2, {"shape": (1, 1, 157, 32)}, r"key_1 has shape")],
    ids=["a name that it has not", "another shape"],
)
def test_a_manifest_with_states_that_are_not_the_graphs_is_refused(mixed, tmp_path, place, change, message):
    bundle = shutil.copytree(mixed, tmp_path / "bundle")
    manifest = Manifest.read(bundle)
    states = list(manifest.states)
    for index in (place, place + 1) if "shape" in change else (place,):
        states[index] = dataclasses.replace(states[index], **change)
    replace_manifest(bundle, dataclasses.replace(manifest, states=tuple(states)))
    with pytest.raises(BadBundle, match=message):
        load(bundle)


def test_a_graph_that_was_exported_for_a_fixed_number_of_rows_gets_them_all(bundle):
    class Binding:
        shapes: ClassVar[set[tuple[int, ...]]] = set()

        def bind_ortvalue_input(self, name, value):
            self.shapes.add(tuple(value.shape()))

        bind_ortvalue_output = bind_ortvalue_input

    manifest = Manifest.read(bundle)
    fixed = [SimpleNamespace(name=s.name, shape=[1, 2, SPEC.rows, 16], type="tensor(float)") for s in manifest.states]
    session = SimpleNamespace(get_inputs=lambda: [SimpleNamespace(name="ids", shape=[1, "T"]), *fixed])
    state = RingState(session, Binding(), manifest, "cpu")
    for position in (0, 5, 200, 1000):
        state.make_room(position, 1, 3)
    assert Binding.shapes == {(1, 2, SPEC.rows, 16)}
