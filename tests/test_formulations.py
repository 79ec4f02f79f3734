"""Both formulations of the ring are exact: the decoder in float64 against the oracle, rounding apart."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_specs import llama_spec

from edgesink.errors import BadOption
from edgesink.export.attention import frame_attention
from edgesink.export.checkpoint import open_checkpoint, weight_names, weight_shape
from edgesink.export.to_torch import RingDecoder, sink_corrected
from edgesink.reference import Reference
from edgesink.spec import ModelSpec, StreamSpec

MODEL = llama_spec(layers=2, hidden=32, intermediate=48, vocab=61, tied=False)
STREAM = StreamSpec(sinks=2, window=9, max_sinks=6, chunk=5)
LAPS = 4  # of the ring
EXACT = 1e-9  # of logits about 1 in float64: many roundings of 1e-16, and no slot or angle off

CHUNKS = {
    "one by one": [1],
    "whole chunks": [5],  # rows 15: they cross the wrap at changing places
    "ragged": [1, 4, 2, 5, 3, 5, 1],
}


def random_weights(spec: ModelSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Large enough for attention to matter."""
    rng = np.random.default_rng(seed)
    shapes = {name: weight_shape(spec, name) for name in weight_names(spec)}
    return {
        name: 1 + 0.1 * rng.normal(size=shape) if len(shape) == 1 else 2 * rng.normal(size=shape) / shape[1] ** 0.5
        for name, shape in shapes.items()
    }


def streamed(module: RingDecoder, ids: np.ndarray, sinks: int, sizes: list[int], padded: bool) -> dict[int, np.ndarray]:
    """The logits after every chunk, by the number of tokens fed."""
    ring, bounded = module.stream.ring(sinks), module.formulation is frame_attention
    at, turn, logits = 0, 0, {}
    while at < len(ids):
        piece = ids[at : at + sizes[turn % len(sizes)]]
        length = None
        if padded:
            length = torch.tensor([len(piece)])
            piece = np.pad(piece, (0, ring.chunk - len(piece)), constant_values=7)
        position = torch.tensor([ring.frame(at) if bounded else at])
        with torch.inference_mode():
            out = module(torch.from_numpy(piece[None]), position, torch.tensor([sinks]), length)
        at += len(piece) if length is None else int(length)
        turn += 1
        logits[at] = out[0].numpy()
    return logits


def truth(loaded, ids: np.ndarray, sinks: int, capacity: int) -> list[np.ndarray]:
    """The oracle's logits after every token."""
    reference = Reference(loaded, sinks, capacity - sinks)
    with torch.inference_mode():
        return [reference._forward(int(id_)).numpy() for id_ in ids]  # step() would round to float32


def compare(logits: dict[int, np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    differences = np.array([np.abs(row - expected[count - 1]).max() for count, row in logits.items()])
    assert differences.max() < tolerance, f"max {differences.max():.2e}, mean {differences.mean():.2e}"


@pytest.fixture(scope="module")
def toy_model(model_of):
    weights = random_weights(MODEL)
    ids = np.random.default_rng(1).integers(0, MODEL.vocab, LAPS * STREAM.rows + 3)
    return model_of(MODEL, weights.__getitem__), {name: torch.from_numpy(w) for name, w in weights.items()}, ids


@pytest.mark.parametrize("sinks", range(STREAM.max_sinks + 1))
def test_both_formulations_are_the_oracle_in_chunks_of_any_sizes(toy_model, sinks):
    loaded, weights, ids = toy_model
    expected = truth(loaded, ids, sinks, STREAM.capacity)
    for formulation in (sink_corrected, frame_attention):
        for sizes in CHUNKS.values():
            module = RingDecoder(MODEL, STREAM, weights, formulation)
            compare(streamed(module, ids, sinks, sizes, padded=False), expected, EXACT)


@pytest.mark.parametrize("sinks", [0, 1, 6])
def test_padding_behind_a_ragged_chunk_changes_nothing(toy_model, sinks):
    loaded, weights, ids = toy_model
    module = RingDecoder(MODEL, STREAM, weights, frame_attention)
    expected = truth(loaded, ids, sinks, STREAM.capacity)
    compare(streamed(module, ids, sinks, CHUNKS["ragged"], padded=True), expected, EXACT)


def test_a_slot_off_by_one_would_be_seen(toy_model):
    loaded, weights, ids = toy_model
    expected = truth(loaded, ids, 2, STREAM.capacity)
    module = RingDecoder(MODEL, STREAM, weights, frame_attention)
    wrong = streamed(module, ids, 3, [1], padded=False)  # another number of sinks: slots and mask differ by one
    assert max(np.abs(wrong[n] - expected[n - 1]).max() for n in wrong) > 1e-3


def test_a_growing_distance_has_no_bounded_frame(toy_model):
    _, weights, ids = toy_model
    module = RingDecoder(MODEL, StreamSpec(2, 9, 6, 5, "original"), weights, frame_attention)
    with pytest.raises(BadOption, match="original"):
        streamed(module, ids[:1], 2, [1], padded=False)


def test_the_formulations_are_exact_on_real_weights_without_sinks(smollm2: Path, model_of):
    """Without sinks the real model is ill-conditioned in float32; in float64 nothing hides."""
    checkpoint = open_checkpoint(smollm2)
    model, stream = checkpoint.model, StreamSpec(sinks=0, window=12, max_sinks=4, chunk=5)
    weights = {name: checkpoint.tensor(name).astype(np.float64) for name in weight_names(model)}
    ids = np.random.default_rng(2).integers(0, model.vocab, 36)
    expected = truth(model_of(model, weights.__getitem__), ids, 0, stream.capacity)
    for formulation in (sink_corrected, frame_attention):
        module = RingDecoder(model, stream, {name: torch.from_numpy(w) for name, w in weights.items()}, formulation)
        compare(streamed(module, ids, 0, [5], padded=False), expected, EXACT)
