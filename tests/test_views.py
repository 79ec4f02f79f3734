"""Layers that look back in more than one way: both formulations in float64 against the semantics by definition."""

import dataclasses

import numpy as np
import pytest
import torch
from view_models import CHUNKS, IDS, MODELS, OVERLOOKED, STREAM, HandMade, ViewOracle, pieces

from edgesink.export.attention import SinkCorrected, frame_attention
from edgesink.export.rows import AttentionSpec
from edgesink.export.to_torch import RingDecoder, sink_corrected
from edgesink.spec import ModelSpec

EXACT = 1e-9  # of logits about 10 in float64: many roundings of 1e-16, and no slot or angle off
SEEN = 1e-4  # a fault moves logits by more than this; the two forms of GELU differ least
FORMULATIONS = {"sink corrected": sink_corrected, "bounded frame": frame_attention}


def streamed(module: RingDecoder, sinks: int, sizes: list[int]) -> dict[int, np.ndarray]:
    """The logits after every piece of the stream, by the number of tokens fed."""
    rings, logits = module.model.rings(STREAM), {}
    for piece in pieces(len(IDS), sizes):
        frames = [STREAM.layer_ring(ring, sinks).frame(piece.start) for ring in rings]
        position = frames if module.formulation is frame_attention else [piece.start]
        with torch.inference_mode():
            out = module(torch.from_numpy(IDS[None, piece]), torch.tensor(position), torch.tensor([sinks]))
        logits[piece.stop] = out[0].numpy()
    return logits


def difference(model: ModelSpec, formulation, sinks: int, sizes: list[int], expected: list[np.ndarray]) -> np.ndarray:
    """|Δlogit|, the largest of each piece's end; the weights are those of the model as it is."""
    weights = {name: torch.from_numpy(array) for name, array in HandMade(model).weights().items()}
    logits = streamed(RingDecoder(model, STREAM, weights, formulation), sinks, sizes)
    return np.array([np.abs(row - expected[count - 1]).max() for count, row in logits.items()])


@pytest.fixture(scope="module")
def truth():
    """truth(name, sinks): the oracle's logits after every token."""
    made = {}

    def make(name: str, sinks: int) -> list[np.ndarray]:
        if (name, sinks) not in made:
            made[name, sinks] = ViewOracle(HandMade(MODELS[name]), STREAM, sinks).run(IDS)
        return made[name, sinks]

    return make


@pytest.mark.parametrize("formulation", FORMULATIONS.values(), ids=FORMULATIONS)
@pytest.mark.parametrize("sinks", [0, 1, 4, STREAM.max_sinks])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_several_views_is_exact_in_chunks_of_any_sizes(truth, name, sinks, formulation):
    for sizes in CHUNKS.values():
        found = difference(MODELS[name], formulation, sinks, sizes, truth(name, sinks))
        assert found.max() < EXACT, f"{sizes}: max {found.max():.1e}, mean {found.mean():.1e}"


@pytest.mark.parametrize("name", OVERLOOKED)
def test_what_is_overlooked_would_be_seen(truth, name):
    of, overlooking = OVERLOOKED[name]
    found = difference(overlooking, frame_attention, 4, [5], truth(of, 4))
    assert found.max() > SEEN, f"{found.max():.1e}"


def test_layers_of_their_own_window_have_no_sinks(truth, monkeypatch):
    """Their ring begins at the row 0, whatever the stream's sinks are."""
    spec = AttentionSpec.of
    monkeypatch.setattr(AttentionSpec, "of", lambda *args: dataclasses.replace(spec(*args), sinks=True))
    found = difference(MODELS["gemma-like"], frame_attention, 4, [5], truth("gemma-like", 4))
    assert found.max() > SEEN, f"{found.max():.1e}"


@pytest.mark.parametrize("name", MODELS)
def test_a_frame_of_another_ring_would_be_seen(truth, name, monkeypatch):
    monkeypatch.setattr(RingDecoder, "_positions", lambda module, position: [position[-1:]] * len(module.model.views))
    found = difference(MODELS[name], frame_attention, 4, [5], truth(name, 4))
    assert found.max() > SEEN, f"{found.max():.1e}"


def test_a_correction_behind_the_cap_would_be_seen(truth, monkeypatch):
    """What the mask adds to a capped score is a difference of capped scores."""

    def linear(attention, q, keys):
        turned = [attention.ops.rotate(q, *phase) for phase in (attention.sink_phase, attention.query_phase)]
        sink, own = (attention.ops.sink_scores(x, keys, attention.sinks, attention.spec.heads) for x in turned)
        return sink - own

    assert difference(MODELS["capped"], sink_corrected, 4, [5], truth("capped", 4)).max() < EXACT
    monkeypatch.setattr(SinkCorrected, "_correction", linear)
    assert difference(MODELS["capped"], sink_corrected, 4, [5], truth("capped", 4)).max() > SEEN


def test_the_rounded_oracle_differs_by_the_rounding_of_tables_only(truth):
    expected = truth("gemma-like", 4)
    rounded = ViewOracle(HandMade(MODELS["gemma-like"]), STREAM, 4, rounded=True).run(IDS)
    found = np.abs(np.array(rounded) - expected).max() / np.std(expected)
    assert 1e-6 < found < 0.05, f"{found:.1e} of the spread"
