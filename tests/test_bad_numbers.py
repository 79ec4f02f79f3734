"""Numbers that went wrong: a stream says at which position and can begin anew; verify cannot take them for right."""

import dataclasses

import numpy as np
import pytest

from edgesink import load
from edgesink.errors import BadNumbers
from edgesink.ring import Ring
from edgesink.spec import StreamSpec
from edgesink.verify.compare import Report, Stage, verify
from edgesink.verify.tolerances import Tolerance

SPEC = StreamSpec(3, 13, 8, 5)


@pytest.fixture(scope="module", params=["fp32", "int4"])
def bundle(request, toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("bad") / request.param, SPEC, request.param)


def spoil(stream) -> None:
    """What a damaged weight would do: keys and values that are not numbers."""
    stream._backend.load_state({name: np.full_like(array, np.nan) for name, array in stream._backend.state().items()})


@pytest.mark.parametrize("provider", ["cpu", "plain"])
def test_a_stream_stops_with_the_position_and_is_as_new_after_a_reset(bundle, provider):
    stream, ids = load(bundle, provider=provider), list(range(5, 45))
    expected = [stream.step(id_) for id_ in ids]
    stream.reset()
    stream.prefill(ids[:20])
    spoil(stream)
    with pytest.raises(BadNumbers, match="position 20 of the stream"):
        stream.step(5)
    with pytest.raises(BadNumbers, match="position 22 of the stream"):
        stream.prefill([6, 7])
    stream.reset()
    for id_, logits in zip(ids, expected, strict=True):
        np.testing.assert_array_equal(stream.step(id_), logits)


def test_a_session_can_be_gone_on_with_after_bad_numbers(bundle, tmp_path):
    stream = load(bundle)
    stream.prefill(range(5, 30))
    stream.save(tmp_path / "talk")
    expected = stream.step(40)
    spoil(stream)
    with pytest.raises(BadNumbers):
        stream.step(40)
    stream.restore(tmp_path / "talk")
    np.testing.assert_array_equal(stream.step(40), expected)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_answer_ends_at_the_first_logit_that_is_not_finite(bundle, monkeypatch, temperature, bad):
    stream = load(bundle)
    feed = stream._backend.feed

    def spoiled(ids, position, sinks):
        feed(ids, position, sinks)
        if position == 7:
            stream._backend.logits[11] = bad

    monkeypatch.setattr(stream._backend, "feed", spoiled)
    stream.manifest = dataclasses.replace(stream.manifest, eos_ids=())
    made = []
    with pytest.raises(BadNumbers, match="position 7 of the stream"):
        made.extend(stream.generate(range(5, 10), 20, temperature=temperature, seed=1))
    stream.reset()
    assert len(list(stream.generate([5], 5))) == 5


class Says:
    """An oracle and a runner that say the same logits always."""

    name, kind = "nothing", "target"

    def __init__(self, value: float) -> None:
        self.logits = np.full(8, value, np.float32)
        self.logits[3] = 1

    def step(self, token_id: int) -> np.ndarray:
        return self.logits

    def feed(self, ids: np.ndarray, position: int, sinks: int) -> np.ndarray:
        return self.logits


@pytest.mark.parametrize(
    ("expected", "actual", "passes"),
    [
        (0, 0, True), (np.nan, np.nan, False), (0, np.nan, False), (np.nan, 0, False), (np.inf, np.inf, False),
        (0, -np.inf, False),
    ],
)  # fmt: skip
def test_verify_cannot_pass_on_what_is_not_a_number(expected, actual, passes):
    endless = Tolerance(max_abs=1e8, mean_kl=1e8, argmax=0, reason="anything that is a number")
    (report,) = verify([(Says(actual), endless)], Says(expected), Ring(1, 4, 2), np.arange(20) % 8)
    assert isinstance(report, Report)
    assert report.parity().passed == passes == (not report.failures)
    stage = Stage()
    stage.add(np.zeros(3), np.array([0, np.nan, 0]))
    assert stage.agreed == 0
