"""Going back: exact up to a chunk below the furthest that a stream has come, wrong beyond it, and refused there."""

import numpy as np
import pytest

from edgesink import load
from edgesink.errors import BadOption, RunFailed
from edgesink.ring import Ring
from edgesink.runtime import kernels
from edgesink.spec import StreamSpec

SPEC = StreamSpec(sinks=4, window=12, max_sinks=8, chunk=5)  # 20 rows; with two views the other ring has 12
T = SPEC.chunk
IDS = [(5 + 31 * i) % 250 + 2 for i in range(120)]
OTHERS = [(77 + 53 * i) % 250 + 2 for i in range(20)]
PLACES = [8, 11, 12, 13, 19, 20, 21, 40, 43, 57]  # before, at and behind the first and later laps of either ring
SAME = 1e-5  # of logits about 10 in float32: rows that are masked may be summed in another order
SEEN = 1e-2


@pytest.fixture(scope="module")
def bundle(two_views, tmp_path_factory):
    return two_views.bundle(tmp_path_factory.mktemp("rewind") / "bundle", SPEC)


@pytest.fixture
def stream(bundle):
    return load(bundle)


@pytest.fixture(scope="module")
def expected(bundle):
    """expected(sinks, place): the logits after each of six tokens that follow `place`, and after three at once."""
    undisturbed, made = load(bundle), {}

    def make(sinks, place):
        if (sinks, place) not in made:
            undisturbed.reset(sinks)
            undisturbed.prefill(IDS[:place])
            made[sinks, place] = ahead(undisturbed, place)
        return made[sinks, place]

    return make


def ahead(stream, place):
    """What a stream says of the tokens from `place` on, fed one by one and then together."""
    return np.array([*(stream.step(token) for token in IDS[place : place + 6]), stream.prefill(IDS[90:93])])


def test_the_lowest_place_to_go_back_to_written_by_hand():
    ring = Ring(sinks=4, capacity=16, chunk=5)  # 12 tokens seen, 16 rows
    assert [ring.oldest_return(furthest) for furthest in (0, 3, 5, 6, 21, 100)] == [0, 0, 0, 1, 16, 95]
    assert Ring(sinks=0, capacity=8, chunk=1).oldest_return(50) == 49


@pytest.mark.parametrize("sinks", [0, 1, 4, 8])
@pytest.mark.parametrize("place", PLACES)
def test_tokens_taken_back_leave_no_trace(stream, expected, sinks, place):
    for tokens in (1, 3, T):
        stream.reset(sinks)
        stream.prefill(IDS[:place])
        stream.prefill(OTHERS[:tokens])
        stream.rewind(tokens)
        assert stream.position == place
        found = np.abs(ahead(stream, place) - expected(sinks, place)).max()
        assert found < SAME, f"{tokens} taken back: {found:.1e}"


@pytest.mark.parametrize("sinks", [0, 1, 4, 8])
def test_one_token_more_than_a_chunk_is_refused_and_would_be_wrong(stream, expected, sinks):
    stream.reset(sinks)
    stream.prefill(IDS[:57])
    stream.prefill(OTHERS[: T + 1])
    with pytest.raises(BadOption, match="rewinding by 6 of 63 tokens; expected 0 to 5"):
        stream.rewind(T + 1)
    assert stream.position == 63
    stream.position -= T + 1
    assert np.abs(ahead(stream, 57) - expected(sinks, 57)).max() > SEEN


def test_several_rewinds_count_from_the_furthest_place(stream, expected):
    stream.prefill([*IDS[:57], *OTHERS[:T]])
    stream.rewind(3)
    stream.prefill(OTHERS[10:12])
    assert stream.rewindable == 4, "position 61, furthest 62"
    stream.rewind(2)
    stream.rewind(2)
    assert (stream.position, stream.rewindable) == (57, 0)
    with pytest.raises(BadOption, match="expected 0 to 0"):
        stream.rewind(1)
    stream.rewind(0)
    assert np.abs(ahead(stream, 57) - expected(4, 57)).max() < SAME
    assert stream.rewindable == T, "66 tokens, further than ever"


@pytest.mark.parametrize("tokens", [-1, T + 1, 100])
def test_what_cannot_be_taken_back_is_refused(stream, tokens):
    stream.prefill(IDS[:30])
    with pytest.raises(BadOption, match="rewinding by"):
        stream.rewind(tokens)
    assert stream.position == 30


def test_a_stream_goes_back_to_its_beginning_and_not_before(stream):
    stream.prefill(IDS[:3])
    assert stream.rewindable == 3
    with pytest.raises(BadOption):
        stream.rewind(4)
    stream.rewind(3)
    found = stream.prefill(OTHERS)
    stream.reset()
    assert np.abs(found - stream.prefill(OTHERS)).max() < SAME


@pytest.mark.parametrize("place", [1, 3, 5])
def test_a_stream_goes_back_among_its_sinks(stream, place):
    stream.reset(sinks=8)
    stream.prefill([*IDS[:place], *OTHERS[:T]])
    stream.rewind(T)
    found = stream.prefill(IDS[place:60])
    stream.reset()
    assert np.abs(found - stream.prefill(IDS[:60])).max() < SAME


def test_the_model_s_own_sink_token_stays(toy, tmp_path, monkeypatch):
    from edgesink.manifest import Manifest

    stream = toy.stream(tmp_path / "bundle", SPEC)
    monkeypatch.setattr(Manifest, "prefix", (7,))
    stream.prefill([5, 6])
    assert (stream.position, stream.rewindable) == (3, 2)
    with pytest.raises(BadOption):
        stream.rewind(3)
    stream.rewind(2)
    found = stream.prefill(IDS[:9])
    stream.reset()
    assert np.array_equal(stream.manifest.prefix, [7])
    assert np.abs(found - stream.prefill(IDS[:9])).max() < SAME


def test_a_run_that_stopped_may_have_written_all_its_tokens(stream, monkeypatch):
    stream.prefill(IDS[:57])
    feed = stream._backend.feed

    def stopping(ids, position, sinks):
        feed(ids, position, sinks)
        raise RunFailed("stopped", "", "")

    monkeypatch.setattr(stream._backend, "feed", stopping)
    with pytest.raises(RunFailed):
        stream.prefill(OTHERS[:3])
    assert (stream.position, stream.rewindable) == (57, T - 3)


def test_a_restored_stream_takes_back_what_was_fed_since(stream, bundle, expected, tmp_path):
    """How far the saved one had come before it went back is not in the file, so nothing before it is."""
    stream.prefill([*IDS[:57], *OTHERS[:T]])
    stream.rewind(T)
    stream.save(tmp_path / "session")
    other = load(bundle)
    other.restore(tmp_path / "session")
    assert (other.position, other.rewindable) == (57, 0)
    other.prefill(OTHERS[: T - 1])
    assert other.rewindable == T - 1
    other.rewind(T - 1)
    assert np.abs(ahead(other, 57) - expected(4, 57)).max() < SAME
    other.reset()
    other.prefill(IDS[:9])
    assert other.rewindable == T


@pytest.mark.skipif(not kernels.available_kernels(), reason="no kernels on this machine")
@pytest.mark.parametrize("place", [30, 45, 230])
def test_the_kernels_go_back_to_the_same_bits_on_a_real_model(smollm2_bundles, english, place):
    spec = StreamSpec.fitted(window=28)  # 4 sinks, a chunk of 14, 45 rows
    stream, undisturbed = (load(smollm2_bundles("int4", spec)) for _ in range(2))
    assert "kernels" in stream.runner
    undisturbed.prefill(english[:place])
    stream.prefill(english[:place])
    for tokens in (1, 5, 14):
        stream.prefill(english[300 : 300 + tokens])
        stream.rewind(tokens)
    for at in range(place, place + 8):
        assert np.array_equal(stream.step(english[at]), undisturbed.step(english[at])), at
    stream.prefill(english[300:315])
    with pytest.raises(BadOption):
        stream.rewind(15)
