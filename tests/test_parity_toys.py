"""Every shape of checkpoint that the exporter reads, on tiny random models: dense before, oracle after the eviction."""

import numpy as np
import pytest

from edgesink.export.checkpoint import open_checkpoint, weight_names
from edgesink.reference import Reference
from edgesink.spec import StreamSpec

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip

SHAPES = {
    "tied llama": {},
    "untied llama": {"tie_word_embeddings": False},
    "sharded llama": {"shard_size": "100KB", "tie_word_embeddings": False},
    "llama 3 rope": {"rope_parameters": LLAMA3},
    "mistral": {"architecture": "mistral", "sliding_window": None},
    "one head a key": {"num_key_value_heads": 4},
    "one key for all": {"num_key_value_heads": 1},
}
FP32 = 2e-4  # logits up to about 20, float32 rounding


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def shape(request, tmp_path_factory, toy_maker):
    return toy_maker(tmp_path_factory.mktemp("shape"), **SHAPES[request.param])


def test_the_graph_equals_the_dense_model_and_then_the_oracle(shape, tmp_path):
    import torch

    ids = np.random.default_rng(0).integers(2, 256, 90)
    stream = shape.stream(tmp_path / "bundle", StreamSpec(3, 13, 8, 5))
    got = np.stack([stream.step(int(token)) for token in ids])
    with torch.inference_mode():
        dense = shape.model(torch.tensor(ids[None, :16])).logits[0].numpy()
    reference = Reference(shape.model, 3, 13)
    expected = np.stack([reference.step(int(token)) for token in ids])
    assert np.abs(expected[:16] - dense).max() < FP32, "the oracle is not the dense model"
    assert np.abs(got - expected).max() < FP32


def test_the_reader_gives_the_weights_that_transformers_has(shape):
    checkpoint = open_checkpoint(shape.path)
    state = shape.model.state_dict()
    assert np.array_equal(checkpoint.tensor("layers.2.down"), state["model.layers.2.mlp.down_proj.weight"].numpy())
    assert all(checkpoint.tensor(name).dtype == np.float32 for name in weight_names(checkpoint.model))


def test_rope_frequencies_are_those_of_transformers(shape):
    model = open_checkpoint(shape.path).model
    ours = model.views[0].rotary.frequencies
    assert np.allclose(ours, shape.model.model.rotary_emb.inv_freq.numpy(), rtol=1e-6)


@pytest.mark.parametrize("sinks", range(9))
def test_every_number_of_sinks_in_every_chunking(toy, tmp_path, sinks):
    ids = np.random.default_rng(sinks).integers(2, 256, 120)
    stream = toy.stream(tmp_path / "bundle", StreamSpec(2, 14, 8, 6), "fp32")
    reference = Reference(toy.model, sinks, 16 - sinks)
    expected = np.stack([reference.step(int(token)) for token in ids])
    generator = np.random.default_rng(1)
    for sizes in ([1], [5], [6], [7], [16], [17], list(generator.integers(1, 20, 200))):
        stream.reset(sinks)
        for i in range(len(ids)):
            end = min(stream.position + int(sizes[i % len(sizes)]), len(ids))
            got = stream.prefill(ids[stream.position : end])
            assert np.abs(got - expected[end - 1]).max() < FP32, f"chunk ending at {end}"
            if end == len(ids):
                break


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 0.01), ("int8", 0.1), ("int4", 0.5)])
def test_a_smaller_precision_stays_near_the_oracle(toy, tmp_path, precision, limit):
    """Random weights of a tiny model round badly; the real model's damage is measured by `edgesink eval`."""
    ids = np.random.default_rng(0).integers(2, 256, 60)
    stream = toy.stream(tmp_path / "bundle", StreamSpec(3, 13, 8, 5), precision)
    got = np.stack([stream.step(int(token)) for token in ids])
    reference = Reference(toy.model, 3, 13)
    expected = np.stack([reference.step(int(token)) for token in ids])
    difference = np.abs(got - expected)
    report = f"max |Δ| {difference.max():.3f}, mean {difference.mean():.4f}, spread of the logits {expected.std():.3f}"
    assert difference.mean() < limit * expected.std(), report


def test_far_into_a_stream_the_phase_is_still_exact(toy, tmp_path):
    """A billion tokens on, the same window gives the same logits: nothing in the graph has lost its position."""
    ids = np.random.default_rng(0).integers(2, 256, 100)  # three layers of windows forget the start
    stream = toy.stream(tmp_path / "bundle", StreamSpec(0, 16, 0, 8))
    near = stream.prefill(ids)
    stream.reset()
    stream.position = 1_000_000_000
    far = stream.prefill(ids)
    assert np.abs(near - far).max() < FP32
