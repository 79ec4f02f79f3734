"""Other pinned tokens for a running stream: bit for bit those of a stream that began so, and all else as it was."""

import dataclasses

import numpy as np
import pytest

from edgesink import load
from edgesink.errors import BadNumbers, BadOption, RunFailed
from edgesink.runtime import kernels
from edgesink.spec import StreamSpec

SPEC = StreamSpec(sinks=4, window=12, max_sinks=8, chunk=5)  # 20 rows
IDS = [(5 + 31 * i) % 250 + 2 for i in range(120)]
OTHERS = [(77 + 53 * i) % 250 + 2 for i in range(20)]
GRAPHS = ["plain", pytest.param("kernels", marks=pytest.mark.skipif(not kernels.available_kernels(), reason="none"))]


@pytest.fixture(scope="module", params=GRAPHS)
def bundle(request, two_views, tmp_path_factory):
    """Two rings, in floats and on the kernels."""
    precision = "fp32" if request.param == "plain" else "int8"
    return two_views.bundle(tmp_path_factory.mktemp("repin") / "bundle", SPEC, precision)


@pytest.fixture
def stream(bundle):
    return load(bundle)


def state_of(stream):
    return {name: array.copy() for name, array in stream._backend.state().items()}


def pinned(stream):
    return {s.name for s in stream.manifest.states if stream.manifest.views[s.view].sinks}


@pytest.mark.parametrize("sinks", [1, 4, 8])
@pytest.mark.parametrize("place", [8, 20, 43, 100])
def test_pinned_rows_are_those_of_a_stream_that_began_so_and_all_others_stay(stream, bundle, sinks, place):
    stream.reset(sinks)
    stream.prefill(IDS[:place])
    before = state_of(stream)
    stream.repin(OTHERS[:sinks])
    after, begun = state_of(stream), load(bundle, sinks=sinks)
    begun.prefill(OTHERS[:sinks])
    for name, array in state_of(begun).items():
        count = sinks if name in pinned(stream) else 0
        assert np.array_equal(after[name][:, :, :count], array[:, :, :count]), name
        assert np.array_equal(after[name][:, :, count:], before[name][:, :, count:]), name
    assert 0 < len(pinned(stream)) < len(before), "one view has sinks and the other none"
    assert (stream.position, stream.sinks) == (place, sinks)


def test_a_repinned_stream_sees_its_new_tokens_and_the_old_ones_once_they_are_put_back(stream):
    stream.prefill(IDS[:60])
    stream.step(5)
    stream.rewind(1)
    usual = stream.step(5)
    stream.rewind(1)
    old = stream.repin(OTHERS[:4])
    assert np.abs(stream.step(5) - usual).max() > 1e-2
    stream.rewind(1)
    new = stream.pinned_rows()
    stream.put_pinned_rows(old)
    assert np.array_equal(stream.step(5), usual)
    stream.rewind(1)
    stream.put_pinned_rows(new)
    assert np.abs(stream.step(5) - usual).max() > 1e-2
    assert new.bytes == sum(array.nbytes for array in new.rows.values()) > 0


def test_repinning_what_is_pinned_changes_no_bit(stream):
    stream.prefill(IDS[:4])
    stream.prefill(IDS[4:60])
    before = state_of(stream)
    stream.repin(IDS[:4])
    assert all(np.array_equal(array, before[name]) for name, array in state_of(stream).items())


def test_a_stream_without_sinks_has_nothing_to_replace(stream):
    stream.reset(sinks=0)
    stream.prefill(IDS[:30])
    with pytest.raises(BadOption, match="1 ids to pin; expected 0"):
        stream.repin([5])


@pytest.mark.parametrize("ids", [OTHERS[:3], OTHERS[:5], []], ids=len)
def test_another_number_of_ids_is_refused_and_the_stream_kept(stream, ids):
    stream.prefill(IDS[:30])
    before = state_of(stream)
    with pytest.raises(BadOption):
        stream.repin(ids)
    assert all(np.array_equal(array, before[name]) for name, array in state_of(stream).items())


def test_a_stream_that_has_not_fed_its_pinned_tokens_is_refused(stream):
    stream.prefill(IDS[:3])
    for act in (lambda: stream.repin(OTHERS[:4]), stream.pinned_rows):
        with pytest.raises(BadOption, match="a stream of 3 tokens; expected 4 or more"):
            act()


def test_rows_of_another_stream_are_refused(stream):
    stream.prefill(IDS[:30])
    rows = stream.pinned_rows()
    for wrong in (
        dataclasses.replace(rows, fingerprint="0" * 64),
        dataclasses.replace(rows, rows={name: array.astype(np.float64) for name, array in rows.rows.items()}),
    ):
        with pytest.raises(BadOption, match="another"):
            stream.put_pinned_rows(wrong)
    stream.reset(sinks=2)
    stream.prefill(IDS[:30])
    with pytest.raises(BadOption, match="4 pinned rows; expected 2"):
        stream.put_pinned_rows(rows)


def test_a_run_that_stops_leaves_the_stream_as_it_was(stream, monkeypatch):
    stream.prefill(IDS[:60])
    before, feed = state_of(stream), stream._backend.feed

    def stopping(ids, position, sinks):
        feed(ids, position, sinks)
        raise RunFailed("stopped", "", "")

    def wrong(ids, position, sinks):
        feed(ids, position, sinks)
        stream._backend.logits[3] = np.nan

    for broken, error in ((stopping, RunFailed), (wrong, BadNumbers)):
        monkeypatch.setattr(stream._backend, "feed", broken)
        with pytest.raises(error):
            stream.repin(OTHERS[:4])
        assert all(np.array_equal(array, before[name]) for name, array in state_of(stream).items())
        assert stream.position == 60
    monkeypatch.setattr(stream._backend, "feed", feed)
    assert np.isfinite(stream.step(5)).all()


def test_the_model_s_own_sink_token_stays_in_front(stream, monkeypatch):
    from edgesink.manifest import Manifest

    monkeypatch.setattr(Manifest, "prefix", (7,))
    stream.prefill(IDS[:30])
    with pytest.raises(BadOption, match=f"begin with {OTHERS[0]}; expected 7"):
        stream.repin(OTHERS[:4])
    stream.repin([7, *OTHERS[:3]])


def test_a_real_model_reads_its_new_first_tokens(smollm2_bundles, english):
    spec = StreamSpec.fitted(window=28)
    stream, begun = (load(smollm2_bundles("int4", spec), sinks=8) for _ in range(2))
    stream.prefill(english[:200])
    usual = stream.step(english[200])
    stream.rewind(1)
    stream.repin(english[400:408])
    begun.prefill(english[400:408])
    state, other = state_of(stream), state_of(begun)
    assert all(np.array_equal(state[name][:, :, :8], other[name][:, :, :8]) for name in pinned(stream))
    assert np.abs(stream.step(english[200]) - usual).max() > 0.1
