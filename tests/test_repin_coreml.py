"""Other pinned tokens for a stream through a Core ML package, whose states have keys and values of a ring's layers."""

from pathlib import Path

import numpy as np
import pytest
from view_models import GEMMA_LIKE, IDS, STREAM, HandMade, pieces

from edgesink import load
from edgesink.export import bundle as export_bundle
from edgesink.export.bundle import export
from edgesink.manifest import Manifest
from edgesink.runtime.pinned import pinned_rows, put_pinned_rows, repin
from edgesink.targets import KV_WRITES
from edgesink.verify.coreml_packages import EvaluatedPackage, feed_packages

OTHERS = np.array([(77 + 53 * i) % 81 + 1 for i in range(STREAM.max_sinks)])
NEXT = np.array([5, 70, 31, 8, 44, 2])
TOLERANCE = {
    "fp16": 0.05,  # share of the logits' spread: rounding between operations, as in test_coreml_views.py
    "seen": 0.5,  # likewise: other pinned tokens move logits by more than this
}


class EvaluatedBackend:
    """A package in our evaluator, rounding as the program says; as much of a backend as `runtime.pinned` asks for."""

    def __init__(self, bundle: Path) -> None:
        self.manifest = Manifest.read(bundle)
        (name,) = self.manifest.coreml_packages
        self._package, self.logits = EvaluatedPackage(bundle / name, "fp16"), np.zeros(self.manifest.vocab, np.float32)

    def feed(self, ids, position, sinks):
        self.logits = feed_packages([self._package], self.manifest, ids, position, sinks)

    def state(self):
        return self._package.state

    def load_state(self, state):
        for name, array in state.items():
            self._package.state[name][...] = array

    def read(self, ids, start, sinks):
        """Feed ids from position `start` on, in uneven pieces; the logits after the last."""
        for piece in pieces(len(ids), [5, 1, 3]):
            self.feed(ids[piece], start + piece.start, sinks)
        return self.logits


def exported(out: Path, *options, **more) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_bundle, "open_checkpoint", lambda path: HandMade(GEMMA_LIKE))
        export(Path("hand-made"), out, *options, **more)
    return out


@pytest.fixture(scope="module", params=KV_WRITES)
def bundle(request, tmp_path_factory):
    """Two rings, of which one has sinks."""
    out = tmp_path_factory.mktemp("repin-coreml") / "bundle"
    return exported(out, "coreml", STREAM, "fp16", kv_write=request.param)


def copied(backend):
    return {name: array.copy() for name, array in backend.state().items()}


@pytest.mark.parametrize(("sinks", "place"), [(1, 20), (4, 43), (8, 8)])
def test_the_rows_are_bit_for_bit_those_of_a_stream_that_began_so_and_all_others_stay(bundle, sinks, place):
    backend, begun = EvaluatedBackend(bundle), EvaluatedBackend(bundle)
    backend.read(IDS[:place], 0, sinks)
    before = copied(backend)
    repin(backend, backend.manifest, OTHERS[:sinks], place, sinks)
    for start in range(0, sinks, STREAM.chunk):
        begun.feed(OTHERS[start : min(start + STREAM.chunk, sinks)], start, sinks)
    pinned = {state.name for state in backend.manifest.states if backend.manifest.views[state.view].sinks}
    assert len(pinned) == 1 < len(before)
    for name, array in backend.state().items():
        assert array.dtype == np.float16
        assert array.shape[0] > 1, "keys and values of layers, one behind the other"
        count = sinks if name in pinned else 0
        assert np.array_equal(array[:, :, :count], begun.state()[name][:, :, :count]), name
        assert np.array_equal(array[:, :, count:], before[name][:, :, count:]), name
        assert count == 0 or not np.array_equal(array[:, :, :count], before[name][:, :, :count]), name


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """The same model through ONNX Runtime, in floats."""
    return load(exported(tmp_path_factory.mktemp("repin-onnx") / "bundle", "onnx", STREAM, "fp32"), provider="plain")


def test_what_comes_next_is_that_of_the_onnx_stream_repinned_the_same_way(bundle, stream):
    backend, place = EvaluatedBackend(bundle), 43
    stream.reset(sinks=4)
    backend.read(IDS[:place], 0, 4)
    spread = np.std(stream.prefill(IDS[:place]))
    old = repin(backend, backend.manifest, OTHERS[:4], place, 4)
    stream.repin(OTHERS[:4])
    live = copied(backend)
    found, expected = backend.read(NEXT, place, 4), stream.prefill(NEXT)
    difference = np.abs(found - expected) / spread
    assert difference.max() <= TOLERANCE["fp16"], f"max {difference.max():.1e}, mean {difference.mean():.1e}"
    backend.load_state(live)
    put_pinned_rows(backend, backend.manifest, old, place, 4)
    usual, plain = backend.read(NEXT, place, 4), EvaluatedBackend(bundle)
    plain.read(IDS[:place], 0, 4)
    assert np.array_equal(usual, plain.read(NEXT, place, 4)), "put back, nothing of it is left"
    moved = np.abs(found - usual) / spread
    assert moved.max() > TOLERANCE["seen"], f"max {moved.max():.1e}, mean {moved.mean():.1e}"
    assert pinned_rows(backend, backend.manifest, place, 4).sinks == 4
