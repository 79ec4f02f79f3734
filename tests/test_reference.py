"""The oracle of every family: Llama's own oracle, transformers' plain forward, and visible sets written by hand."""

import numpy as np
import pytest
import torch
from llama_oracle import LlamaOracle
from transformers import AutoConfig, AutoModelForCausalLM

from edgesink.errors import BadCheckpoint, BadOption
from edgesink.reference import Reference

TOLERANCE = 1e-4  # of the logits' spread: float32 rounding; 2e-5 measured

TOY = {
    "vocab_size": 258, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2, "eos_token_id": 0,
    "bos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
HEADS = {"head_dim": 16}
OWN_NAMES = {
    "d_model": 64,
    "n_heads": 4,
    "n_layers": 4,
    "max_seq_len": 512,
    "vocab_size": 258,
    "initializer_range": 0.2,
}
NEAR_AND_FAR = ["sliding_attention", "full_attention"] * 2
YARN = {
    "rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 500.0, "short_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5],
    "long_factor": [4.0] * 6, "original_max_position_embeddings": 128, "partial_rotary_factor": 0.75,
}  # fmt: skip
TEMPERATURE = YARN | {"llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0}

FAMILIES = {
    "llama": HEADS,
    "llama yarn": HEADS | {"rope_parameters": YARN},
    "mistral": HEADS | {"sliding_window": None},
    "mistral window above": HEADS | {"sliding_window": 100},
    "mistral window below": HEADS | {"sliding_window": 10},
    "ministral3": HEADS | {"rope_parameters": TEMPERATURE},
    "mixtral": HEADS,
    "qwen2": {},
    "qwen2 max_window_layers": {"use_sliding_window": True, "sliding_window": 10, "max_window_layers": 2},
    "qwen3": HEADS,
    "qwen3_moe": HEADS,
    "smollm3": HEADS | {"no_rope_layers": [1, 0, 1, 0]},
    "gemma": HEADS,
    "gemma2": HEADS | {"sliding_window": 10, "layer_types": NEAR_AND_FAR, "attn_logit_softcapping": 2.0},
    "gemma3_text": HEADS | {"sliding_window": 10, "layer_types": NEAR_AND_FAR},
    "gemma4_text": HEADS | {"sliding_window": 10, "layer_types": NEAR_AND_FAR},
    "phi": {"partial_rotary_factor": 0.5},
    "phi3": {},
    "phi3 longrope": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 128},
    "granite": {"attention_multiplier": 0.2, "residual_multiplier": 0.5, "embedding_multiplier": 3.0},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 10},
    "exaone4": {"sliding_window": 10, "sliding_window_pattern": 2},
    "cwm": HEADS,
    "gpt_neox": {"rotary_pct": 0.25},
    "falcon": {"alibi": False},
    "falcon new": {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon alibi": {"alibi": True},
    "stablelm": {"partial_rotary_factor": 0.25},
    "persimmon": {"partial_rotary_factor": 0.5},
    "nemotron": HEADS,
    "starcoder2": {"sliding_window": 10},
    "seed_oss": HEADS,
    "bloom": {"n_head": 4, "n_layer": 4},
    "mpt": {},
}
"""Name (its first word is transformers' model_type) -> what differs from TOY."""

REFUSED = {
    "cohere": ({}, "halves paired"),  # neighbours paired, in the cosines too
    "glm": (HEADS, "logits of glm differ"),  # neighbours paired
    "gpt_oss": (HEADS, "halves paired"),
    "gpt2": ({}, "logits of gpt2 differ"),  # learned positions
    "opt": ({}, "logits of opt differ"),
    "bart": ({}, "learned positions"),
    "hunyuan_v1_dense": (HEADS, "logits of hunyuan_v1_dense differ"),  # a norm with weights after the rotation
    "qwen3_next": (HEADS, "LinearAttentionLayer"),
    "lfm2": ({"layer_types": ["conv", "full_attention"] * 2}, "LinearAttentionLayer"),
    "llama4_text": (HEADS, "chunk"),
}


def random_model(name: str, changes: dict):
    """A model of random weights; those of norms and biases too, which would be ones and zeros."""
    architecture = name.split()[0]
    values = OWN_NAMES if architecture == "mpt" else TOY | changes
    if architecture == "falcon":
        values = {key: value for key, value in values.items() if key != "num_key_value_heads"}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    return model


def random_ids(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(2, 256, count)


def plain(model, ids: np.ndarray) -> np.ndarray:
    """transformers' own logits, float32 [n, V]."""
    with torch.no_grad():
        return model(torch.tensor(ids[None]), use_cache=False).logits[0].float().numpy()


def streamed(oracle, ids: np.ndarray) -> np.ndarray:
    return np.stack([oracle.step(int(token)) for token in ids])


def assert_equal(got: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> None:
    difference, limit = np.abs(got - expected), tolerance * expected.std()
    assert difference.max() <= limit, f"max |Δ| {difference.max():.1e}, mean {difference.mean():.1e}, limit {limit:.1e}"


@pytest.mark.parametrize("name", FAMILIES)
def test_before_the_first_eviction_it_is_transformers_and_leaves_the_model_as_it_was(name):
    model, ids = random_model(name, FAMILIES[name]), random_ids(40)
    expected = plain(model, ids)
    oracle = Reference(model, 3, 37)
    assert_equal(streamed(oracle, ids), expected)
    assert np.array_equal(plain(model, ids), expected), "the model computes something else than before"
    oracle.prefill(ids[:5])
    assert np.isfinite(oracle.prefill(ids)).all()


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_it_does_not_reproduce_is_refused(name):
    changes, message = REFUSED[name]
    with pytest.raises(BadCheckpoint, match=message):
        Reference(random_model(name, changes), 3, 13)


@pytest.mark.parametrize("name", ["phi3 longrope", "ministral3"])
def test_a_capacity_past_the_first_context_is_refused(name):
    model = random_model(name, FAMILIES[name])
    Reference(model, 4, 124)
    with pytest.raises(BadCheckpoint):
        Reference(model, 4, 125 + 128)


@pytest.mark.parametrize("positions", ["cache", "original"])
@pytest.mark.parametrize(("sinks", "window"), [(3, 13), (0, 16), (1, 1), (0, 1)])
def test_over_many_laps_it_is_the_oracle_of_llama(toy, sinks, window, positions):
    ids = random_ids(90)
    got = streamed(Reference(toy.model, sinks, window, positions=positions), ids)
    assert_equal(got, streamed(LlamaOracle(toy.model, sinks, window, positions), ids))


@pytest.mark.parametrize("positions", ["cache", "original"])
def test_on_real_weights_it_is_the_oracle_of_llama(smollm2_oracle_model, positions):
    ids = np.random.default_rng(1).integers(10, 40_000, 48)
    got = streamed(Reference(smollm2_oracle_model, 4, 12, positions=positions), ids)
    assert_equal(got, streamed(LlamaOracle(smollm2_oracle_model, 4, 12, positions), ids))


@pytest.mark.parametrize("name", ["mistral window below", "starcoder2"])
def test_layers_with_a_smaller_window_of_their_own_are_transformers_for_ever(name):
    """Every layer keeps its own window: nothing of the stream's sinks and eviction is left."""
    model, ids = random_model(name, FAMILIES[name]), random_ids(60)
    assert_equal(streamed(Reference(model, 3, 13), ids), plain(model, ids))


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "olmo3"])
def test_a_window_of_its_own_is_kept_beside_layers_that_see_all(name):
    model, ids = random_model(name, FAMILIES[name]), random_ids(60)
    assert_equal(streamed(Reference(model, 3, 57), ids), plain(model, ids))


def test_a_window_of_its_own_that_is_no_smaller_than_the_capacity_changes_nothing():
    """The stream's sinks and window hold in every layer, as in the same model without a window."""
    ids = random_ids(60)
    without, at, above = (
        streamed(Reference(random_model("mistral", HEADS | {"sliding_window": own}), 3, 13), ids)
        for own in (None, 16, 100)
    )
    assert_equal(at, without)
    assert_equal(above, without)


def test_slopes_that_end_before_the_capacity_are_refused():
    model = random_model("mpt", {})
    Reference(model, 4, model.config.max_seq_len - 4)
    with pytest.raises(BadCheckpoint, match="mpt does not run on the slow ring"):
        Reference(model, 4, model.config.max_seq_len - 3)


def test_alibi_uses_distances_in_the_cache():
    """One layer, so keys do not depend on what was evicted: the kept tokens alone give the same logits."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mpt", **OWN_NAMES | {"n_layers": 1})).eval()
    ids = random_ids(30)
    got = streamed(Reference(model, 2, 5), ids)
    expected = np.stack([plain(model, np.r_[ids[:2], ids[n - 4 : n + 1]])[-1] for n in range(7, 30)])
    assert_equal(got[7:], expected)


@pytest.mark.parametrize("name", ["llama", "phi", "smollm3", "gpt_neox"])
def test_one_layer_sees_the_kept_tokens_at_their_places_in_the_cache(name):
    changes = FAMILIES[name] | {"num_hidden_layers": 1, "no_rope_layers": [1]}
    model, ids = random_model(name, changes), random_ids(30)
    got = streamed(Reference(model, 2, 5), ids)
    expected = np.stack([plain(model, np.r_[ids[:2], ids[n - 4 : n + 1]])[-1] for n in range(7, 30)])
    assert_equal(got[7:], expected)


VISIBLE = {  # token: those that a layer of the stream sees, and those that a layer with a window of 3 of its own sees
    0: ([0], [0]),
    1: ([0, 1], [0, 1]),
    2: ([0, 1, 2], [0, 1, 2]),
    3: ([0, 1, 2, 3], [1, 2, 3]),
    4: ([0, 1, 2, 3, 4], [2, 3, 4]),
    5: ([0, 1, 3, 4, 5], [3, 4, 5]),
    6: ([0, 1, 4, 5, 6], [4, 5, 6]),
    9: ([0, 1, 7, 8, 9], [7, 8, 9]),
}
"""Two sinks and a window of three, written by hand."""


def test_the_tokens_that_each_layer_sees(monkeypatch):
    """Values tell the tokens: what reaches the attention of each layer is recorded."""
    changes = {"num_hidden_layers": 2, "sliding_window": 3, "layer_types": ["full_attention", "sliding_attention"]}
    model = random_model("gemma3_text", HEADS | changes)
    oracle = Reference(model, 2, 3)
    inputs = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def recorded(query, key, value, **options):
        assert options["attn_mask"] is None or options["attn_mask"].all()
        inputs.append((key, value))
        return attend(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    tokens: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[], []]  # of each layer: length of the key, and value
    for n, token in enumerate(random_ids(10)):
        inputs.clear()
        oracle.step(int(token))
        for layer, (key, value) in enumerate(inputs):
            length = key[0, 0].norm(dim=-1)  # which a rotation keeps
            tokens[layer].append((length[-1], value[0, 0, -1]))
            if n in VISIBLE:
                lengths, values = zip(*(tokens[layer][i] for i in VISIBLE[n][layer]), strict=True)
                assert torch.equal(value[0, 0], torch.stack(values)), f"token {n}, layer {layer}"
                assert torch.allclose(length, torch.stack(lengths)), f"token {n}, layer {layer}"


def test_two_streams_over_one_model_do_not_disturb_each_other(toy):
    ids = random_ids(40)
    alone = streamed(Reference(toy.model, 2, 6), ids)
    first, second = Reference(toy.model, 2, 6), Reference(toy.model, 0, 9, positions="original")
    between = []
    for token in ids:
        between.append(first.step(int(token)))
        second.step(int(token))
        plain(toy.model, ids[:3])
    assert np.array_equal(np.stack(between), alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "smollm3"])
def test_a_smaller_type_is_not_refused(name, dtype):
    model, ids = random_model(name, FAMILIES[name]), random_ids(40)
    expected = streamed(Reference(model, 3, 13), ids)
    got = streamed(Reference(model.to(dtype), 3, 13), ids)
    assert_equal(got, expected, 60 * torch.finfo(dtype).eps)


def test_reset_starts_a_new_stream(toy):
    oracle, ids = Reference(toy.model, 2, 6), random_ids(20)
    first = oracle.prefill(ids)
    assert oracle.position == 20
    oracle.reset()
    assert oracle.position == 0
    assert np.array_equal(oracle.prefill(ids), first)


@pytest.mark.parametrize(("sinks", "window", "positions"), [(-1, 4, "cache"), (0, 0, "cache"), (0, 4, "absolute")])
def test_a_wrong_option_is_refused(toy, sinks, window, positions):
    with pytest.raises(BadOption):
        Reference(toy.model, sinks, window, positions=positions)


def test_keys_that_are_zero_in_some_dimensions_are_understood():
    """Weights of Gemma's norms of keys, 1 + w, are zero here and there."""
    model = random_model("gemma3_text", FAMILIES["gemma3_text"])
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.k_norm.weight[[1, 6]] = -1.0
    ids = random_ids(12)
    with torch.inference_mode():
        dense = model(torch.tensor(ids[None])).logits[0]
    assert (torch.from_numpy(Reference(model, 4, 12).prefill(ids)) - dense[-1]).abs().max() < 1e-4
