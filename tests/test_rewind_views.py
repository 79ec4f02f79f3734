"""Going back in models of several views: both formulations, so every target, in float64 against the definition."""

import functools

import numpy as np
import pytest
import torch
from view_models import IDS, MODELS, STREAM, HandMade, ViewOracle

from edgesink.export.attention import frame_attention
from edgesink.export.to_torch import RingDecoder, sink_corrected

T = STREAM.chunk
EXACT = 1e-9  # of logits about 10 in float64
FORMULATIONS = {"sink corrected": sink_corrected, "bounded frame": frame_attention}
LAST = 58


@pytest.fixture(scope="module")
def truth():
    """truth(name, sinks): the oracle's logits after every token."""
    made = {}

    def make(name, sinks):
        if (name, sinks) not in made:
            made[name, sinks] = ViewOracle(HandMade(MODELS[name]), STREAM, sinks).run(IDS[:LAST])
        return made[name, sinks]

    return make


@functools.cache
def weights_of(name):
    return {weight: torch.from_numpy(array) for weight, array in HandMade(MODELS[name]).weights().items()}


class Run:
    """A model's stream, told where every chunk stands."""

    def __init__(self, name, formulation, sinks):
        self.decoder, self.sinks = RingDecoder(MODELS[name], STREAM, weights_of(name), formulation), sinks
        self.rings = [STREAM.layer_ring(ring, sinks) for ring in MODELS[name].rings(STREAM)]

    def feed(self, ids, position):
        """The logits after the last of the ids."""
        for start in range(0, len(ids), T):
            part, at = ids[start : start + T], position + start
            frames = [ring.frame(at) for ring in self.rings]
            places = frames if self.decoder.formulation is frame_attention else [at]
            with torch.inference_mode():
                out = self.decoder(torch.from_numpy(part[None]), torch.tensor(places), torch.tensor([self.sinks]))
        return out[0].numpy()

    def gone_back(self, place, tokens, expected):
        """The largest |Δlogit| of what follows `place` once `tokens` others were fed there and taken back."""
        self.feed(IDS[:place], 0)
        self.feed(IDS[-tokens:], place)
        found = [np.abs(self.feed(IDS[at : at + 1], at) - expected[at]).max() for at in range(place, place + 2)]
        at = place + 2
        return max(*found, np.abs(self.feed(IDS[at : at + 2 * T], at) - expected[at + 2 * T - 1]).max())


@pytest.mark.parametrize("formulation", FORMULATIONS.values(), ids=FORMULATIONS)
@pytest.mark.parametrize("sinks", [0, 4])
@pytest.mark.parametrize("name", MODELS)
def test_a_chunk_taken_back_leaves_no_trace_in_any_view(truth, name, sinks, formulation):
    for place in (6, 19, 45):
        found = Run(name, formulation, sinks).gone_back(place, T, truth(name, sinks))
        assert found < EXACT, f"at {place}: {found:.1e}"


@pytest.mark.parametrize("formulation", FORMULATIONS.values(), ids=FORMULATIONS)
@pytest.mark.parametrize("name", MODELS)
def test_one_token_more_is_seen(truth, name, formulation):
    assert Run(name, formulation, 4).gone_back(45, T + 1, truth(name, 4)) > 1e-4


def test_the_lowest_place_is_the_same_for_the_rings_of_every_view():
    for name, model in MODELS.items():
        rings = [STREAM.layer_ring(ring, 4) for ring in model.rings(STREAM)]
        assert {ring.oldest_return(45) for ring in rings} == {45 - T}, name
        assert len({ring.slots for ring in rings}) == 2, "though they are not of one length"
