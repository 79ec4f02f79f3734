"""Every field and every tensor of a checkpoint is used as transformers uses it, or refused by name.

One thing at a time is deleted, added or changed in a llama folder and a mistral folder (for a GGUF:
test_used_or_refused_gguf.py). What still opens must give transformers' logits: those of a Llama made of nothing but
our `ModelSpec` and weights are compared. What is refused must be named in one EdgesinkError; nothing else may be
raised.
"""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from edgesink.errors import BadCheckpoint, EdgesinkError
from edgesink.export.checkpoint import open_checkpoint
from edgesink.export.checkpoint.config import HARMLESS, NEUTRAL

SMALL = dict(
    vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=8, num_key_value_heads=2
)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {
    "rope_type": "yarn", "rope_theta": 777.0, "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 16.0,
    "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 1.0,
}  # fmt: skip
OTHERS = {
    "ministral3": {"rope_parameters": YARN | {"llama_4_scaling_beta": 0.1}},
    "qwen2": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1, "layer_types": None},
    "qwen3": {},
    "smollm3": {"no_rope_layers": [1, 0]},
    "gemma2": {"sliding_window": 9, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 2.0},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 9},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512},
    "olmo2": {},
    "olmo3": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 9},
    "phi3": {"partial_rotary_factor": 0.5},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    "gpt_neox": {},
    "stablelm": {"use_qkv_bias": True},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
}
NORM_EPS = {
    "gpt_neox": "layer_norm_eps", "stablelm": "layer_norm_eps", "falcon": "layer_norm_epsilon",
    "mpt": "layer_norm_epsilon",
}  # fmt: skip
HUGE = 10**9


@pytest.fixture(scope="module")
def folders(toy_maker, tmp_path_factory):
    """A llama with a head of its own and a tied mistral, as transformers saves them."""
    make = lambda kind, **more: toy_maker(tmp_path_factory.mktemp(kind), kind, **SMALL, **more).path  # noqa: E731
    found = {"llama": make("llama", tie_word_embeddings=False), "mistral": make("mistral", sliding_window=None)}
    found |= {kind: make(kind, pad_token_id=0, **changes) for kind, changes in OTHERS.items()}
    for folder in found.values():
        (folder / "tokenizer.json").unlink()  # ids beyond the vocabulary of 40; not what is tried here
    return found


@pytest.fixture
def folder(folders, tmp_path):
    """folder(kind, config=…, tensors=…, **files) -> a copy whose config or weights a function has changed."""
    from safetensors.torch import load_file, save_file

    def make(kind: str, config=None, tensors=None, **files) -> Path:
        source, copy = folders[kind], tmp_path / f"{len(list(tmp_path.iterdir()))}"
        copy.mkdir()
        values = json.loads((source / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(values if config is None else config(values)))
        weights = source / "model.safetensors"
        if tensors is None:
            os.symlink(weights, copy / weights.name)
        else:
            changed = {key: value.contiguous() for key, value in tensors(load_file(weights)).items()}
            save_file(changed, copy / weights.name, metadata={"format": "pt"})
        for name, text in files.items():
            (copy / f"{name}.json").write_text(text)
        return copy

    return make


def changes_of(value):
    """Values that may stand where `value` stood."""
    wrong = [None, True, "x", 7, -1, 0, HUGE, 0.5, [7], {"x": 1}]
    if type(value) in (int, float):
        wrong += [value * 2, float("nan"), float("inf")]
    return [other for other in wrong if other != value or type(other) is not type(value)]


def test_the_originals_open_with_the_logits_of_transformers(folder, verdict):
    for path in (folder("llama"), folder("mistral")):
        assert verdict(path, (), path) == "used"


def all_of(wrong: dict[str, str]) -> str:
    return "\n".join(f"{change}: {answer}" for change, answer in wrong.items())


@pytest.mark.parametrize("kind", ["llama", "mistral", *OTHERS])
def test_each_field_of_config_json_deleted_or_changed(folders, folder, verdict, kind):
    values = json.loads((folders[kind] / "config.json").read_text())
    layers = [f"{layers}.{number}" for layers in ("layers", "h", "blocks") for number in range(3)]
    vocabulary = ("embed_tokens", "wte", "embed_in", "word_embeddings", "lm_head", "embed_out")
    elsewhere = (*layers, *vocabulary, "layer_types", "no_rope_layers")
    wrong, used = {}, set()  # a size that is wrong is seen elsewhere
    for name, value in values.items():
        for other in ["deleted", None, "x"] if name in HARMLESS else ["deleted", *changes_of(value)]:
            if (name, other) == ("max_seq_len", HUGE):
                continue  # transformers' MPT makes a number for each of so many tokens
            rest = {key: kept for key, kept in values.items() if key != name}
            changed = rest if other == "deleted" else rest | {name: other}
            answer = verdict(folder(kind, config=lambda _: changed), (name, *elsewhere), folders[kind])  # noqa: B023
            if answer == "used":
                used.add(name)
            elif answer != "refused":
                wrong[f"{name} = {other!r}"] = answer
    if wrong.get("head_dim = None", "").startswith("opened, though"):  # a share of the width, which others fall back to
        del wrong["head_dim = None"]
    if kind == "mpt":
        del wrong["max_seq_len = 7"]  # shorter than the text that is tried, and transformers' slopes end there
    assert not wrong, all_of(wrong)
    assert NORM_EPS.get(kind, "rms_norm_eps") in used
    assert "rope_parameters" in used or kind in ("ministral3", "mpt")  # which has it always in full, or never


OTHER_FAMILIES = ("qwen2", "qwen3", "gemma2", "gemma3_text", "granite", "cohere", "olmo2", "phi3", "mixtral", "smollm3")


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_each_field_of_another_family_is_refused_by_name_but_for_those_that_do_nothing(folders, folder, kind):
    from transformers import CONFIG_MAPPING

    ours = json.loads((folders[kind] / "config.json").read_text())
    fields = {f.name: f.default for other in OTHER_FAMILIES for f in dataclasses.fields(CONFIG_MAPPING[other])}
    accepted = set()
    for name in fields.keys() - ours.keys() - {"rope_theta", "tie_word_embeddings"}:
        changed = lambda config: config | {name: 3}  # noqa: B023, E731
        try:
            open_checkpoint(folder(kind, config=changed))
        except EdgesinkError as error:
            assert f"has {name} = 3" in str(error)  # noqa: PT017
        else:
            accepted.add(name)
    assert accepted <= HARMLESS, accepted - HARMLESS
    assert len(fields) > 50


def test_what_transformers_reads_of_a_config_is_read_here_or_does_nothing(folders):
    """A field that a newer transformers adds to these configs has to be understood before it is accepted."""
    from transformers import CONFIG_MAPPING

    read = {
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim",
        "num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "eos_token_id",
        "tie_word_embeddings", "rope_parameters", "sliding_window", "use_sliding_window", "max_window_layers",
        "layer_types", "no_rope_layers", "no_rope_layer_interval", "hidden_activation", "query_pre_attn_scalar",
        "original_max_position_embeddings", "embedding_multiplier", "residual_multiplier", "attention_multiplier",
        "logits_scaling", "attn_logit_softcapping", "final_logit_softcapping",  # of Gemma 3 refused unless null
        "layer_norm_eps", "layer_norm_epsilon", "use_parallel_residual", "use_qkv_bias", "num_ln_in_parallel_attn",
        "num_kv_heads", "alibi", "new_decoder_architecture", "multi_query", "parallel_attn", "ffn_hidden_size",
        "activation", "d_model", "n_heads", "n_layers", "expansion_ratio", "max_seq_len", "learned_pos_emb",
        "attn_config", "no_bias", "norm_type",
    }  # fmt: skip
    for kind in folders:
        names = {field.name for field in dataclasses.fields(CONFIG_MAPPING[kind])}
        assert names - read - HARMLESS - NEUTRAL.keys() == set()


CONFIGS = {
    "swish is silu": ({"hidden_act": "swish"}, "used"),
    "gelu": ({"hidden_act": "gelu"}, "used"),
    "relu": ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
    "biases": ({"attention_bias": True}, "biases of attention"),
    "biases of the MLP": ({"mlp_bias": True}, "biases of the MLP"),
    "heads that are not a share of the width": ({"head_dim": 16}, "q_proj"),
    "no head_dim": ({"head_dim": None}, "used"),
    "one head": ({"num_attention_heads": 2, "head_dim": None, "num_key_value_heads": 1}, "used"),
    "partial rotary": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    "whole rotary": ({"partial_rotary_factor": 1.0}, "used"),
    "old spelling": ({"rope_parameters": None, "rope_theta": 777.0}, "used"),
    "old spelling, no scaling": ({"rope_parameters": None, "rope_theta": 777.0, "rope_scaling": None}, "used"),
    "llama3": ({"rope_parameters": LLAMA3 | {"rope_theta": 777.0, "original_max_position_embeddings": 16}}, "used"),
    "llama3, old spelling": ({"rope_parameters": None, "rope_theta": 777.0, "rope_scaling": LLAMA3}, "used"),
    "llama3, older": (
        {"rope_parameters": None, "rope_scaling": {"type" if k == "rope_type" else k: v for k, v in LLAMA3.items()}},
        "used",
    ),
    "llama3 without its factors": (
        {"rope_parameters": None, "rope_scaling": {"rope_type": "llama3", "factor": 8}},
        "rope_scaling lacks low_freq_factor",
    ),
    "llama3 upside down": ({"rope_parameters": LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor = 1.0"),
    "llama3, one more": ({"rope_parameters": LLAMA3 | {"attention_factor": 2.0}}, "attention_factor = 2.0"),
    "two places that disagree": ({"rope_scaling": LLAMA3}, "rope_scaling"),
    "two places that agree": (
        {"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_type": "default"}, "rope_theta": 777.0},
        "used",
    ),
    "two thetas": ({"rope_theta": 777.0}, "rope_theta = 777.0"),
    "two thetas, nested": (
        {"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_type": "default", "rope_theta": 777.0}},
        "rope_scaling",
    ),
    "linear": ({"rope_parameters": {"rope_type": "linear", "factor": 4.0}}, "used"),
    "linear without its factor": ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters lacks factor"),
    "yarn": ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "used"),
    "yarn in full": ({"rope_parameters": YARN}, "used"),
    "yarn that ends between pairs": ({"rope_parameters": YARN | {"truncate": False}}, "used"),
    "yarn, one more": ({"rope_parameters": YARN | {"short_factor": [1.0]}}, "short_factor"),
    "dynamic": (
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}},
        "its frequencies change with the length of the text",
    ),
    "rope of layers": ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "full_attention"),
    "layers": ({"layer_types": ["full_attention"] * 2}, "used"),
    "layers that differ": ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    "GPTQ": ({"quantization_config": {"quant_method": "gptq"}}, "'gptq'"),
    "FP8": ({"quantization_config": {"quant_method": "fp8"}}, "'fp8'"),
    "nobody's": ({"quantization_config": 8}, "quantization_config"),
    "MLX": ({"quantization": {"bits": 4}}, "MLX"),
    "code of its own": ({"auto_map": {"AutoModelForCausalLM": "modeling.Own"}}, "auto_map"),
    "null means nothing": ({"something_new": None}, "used"),
    "a new field": ({"something_new": 0}, "something_new = 0"),
    "a million labels": ({"num_labels": HUGE}, "opens"),
    "end ids": ({"eos_token_id": [1, 2]}, "used"),
    "an end id beyond": ({"eos_token_id": 40}, "eos_token_id = 40"),
    "an end id of old": ({"eos_token_id": 2**32 - 1}, "eos_token_id"),
    "an end id below": ({"eos_token_id": -1}, "eos_token_id = -1"),
    "end ids in words": ({"eos_token_id": ["2"]}, "eos_token_id"),
    "another model": ({"model_type": "mixtral"}, "a mixture of experts"),
    "no model": ({"model_type": None}, "has no model_type"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_what_a_config_may_ask_for(folders, folder, verdict, case):
    change, expected = CONFIGS[case]
    path = folder("llama", config=lambda config: config | change)
    if expected == "opens":  # transformers makes a list of it
        open_checkpoint(path)
        return
    answer = verdict(path, (expected,), folders["llama"])
    assert answer == ("used" if expected == "used" else "refused")


@pytest.mark.parametrize(
    ("window", "expected"), [(33, "used"), (32, "used"), (31, "used"), (5, "used"), (None, "used"), (0, "window = 0")]
)
def test_a_sliding_window_is_kept_as_it_is(folders, folder, verdict, window, expected):
    path = folder("mistral", config=lambda config: config | {"sliding_window": window})
    assert verdict(path, (expected,), folders["mistral"]) == ("used" if expected == "used" else "refused")


def test_the_sliding_window_that_transformers_fills_in_counts(folder):
    config = lambda config: {key: value for key, value in config.items() if key != "sliding_window"}  # noqa: E731
    assert [view.window for view in open_checkpoint(folder("mistral", config=config)).model.views] == [4096]


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "3", "{", '"x"', '{"model_type": "llama", "x": NaN}', "\ud800"])
@pytest.mark.parametrize("name", ["config", "generation_config"])
def test_json_that_is_no_object_is_refused(folder, name, text):
    path = folder("llama")
    (path / f"{name}.json").write_text(text, errors="surrogatepass")
    if name == "generation_config" and "NaN" in text:
        assert open_checkpoint(path).eos_ids == (0,)
    else:
        with pytest.raises(BadCheckpoint, match="config"):
            open_checkpoint(path)


@pytest.mark.parametrize("eos", ["</s>", 2.5, True, [2, None], 40, {"a": 1}])
def test_an_end_id_of_generation_config_is_an_id(folder, eos):
    with pytest.raises(BadCheckpoint, match=r"generation_config.json has eos_token_id"):
        open_checkpoint(folder("llama", generation_config=json.dumps({"eos_token_id": eos})))


def test_an_export_is_refused_before_a_weight_is_read(folder, tmp_path, monkeypatch):
    from edgesink.export.bundle import export
    from edgesink.export.checkpoint import SafetensorsCheckpoint
    from edgesink.spec import StreamSpec

    monkeypatch.setattr(SafetensorsCheckpoint, "tensor", lambda *_: pytest.fail("a weight was read"))
    narrow = folder("mistral", config=lambda config: config | {"sliding_window": 3})
    with pytest.raises(EdgesinkError, match="layers whose own window is 3 tokens"):
        export(narrow, tmp_path / "out", stream=StreamSpec.fitted(window=28), precision="fp32")
    with pytest.raises(EdgesinkError, match=r"weight layers\.0\.down has 48 columns"):
        export(folder("llama"), tmp_path / "out", stream=StreamSpec.fitted(window=28), precision="int8")
    assert not (tmp_path / "out").exists()


def test_a_value_beyond_float16_is_refused_in_half_precision(folder):
    from edgesink.export.weights import held_weights

    key = "model.layers.0.self_attn.q_proj.weight"
    checkpoint = open_checkpoint(folder("llama", tensors=lambda weights: weights | {key: weights[key] * 1e7}))
    assert np.isfinite(held_weights(checkpoint, "fp32")("layers.0.q")).all()
    with pytest.raises(BadCheckpoint, match=r"layers\.0\.q has a value beyond the range of float16"):
        held_weights(checkpoint, "fp16")("layers.0.q")


# ---- tensors of a folder


@pytest.mark.parametrize("kind", ["llama", "gemma2", "olmo2", *NORM_EPS])
def test_each_tensor_dropped_renamed_reshaped_or_of_another_type(folders, folder, verdict, kind):
    from safetensors.torch import load_file

    wrong = {}
    keys = [key for key in load_file(folders[kind] / "model.safetensors") if ".1." not in key]
    for key in keys:
        changes = {
            "dropped": lambda w: {k: v for k, v in w.items() if k != key},  # noqa: B023
            "renamed": lambda w: {k + "_" if k == key else k: v for k, v in w.items()},  # noqa: B023
            "one row more": lambda w: w | {key: torch.cat([w[key], w[key][:1]])},  # noqa: B023
            "flat": lambda w: w | {key: w[key].reshape(-1, 1)},  # noqa: B023
            "int8": lambda w: w | {key: w[key].to(torch.int8)},  # noqa: B023
            "fp8": lambda w: w | {key: w[key].to(torch.float8_e4m3fn)},  # noqa: B023
            "NaN": lambda w: w | {key: w[key] * float("nan")},  # noqa: B023
        }
        for change, tensors in changes.items():
            answer = verdict(folder(kind, tensors=tensors), (key,), folders[kind])
            if answer != "refused":
                wrong[f"{key} {change}"] = answer
    assert not wrong, all_of(wrong)


@pytest.mark.parametrize(
    "key",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.1.self_attn.q_norm.weight",
        "model.layers.0.post_feedforward_layernorm.weight",
        "model.layers.0.block_sparse_moe.experts.0.w1.weight",
        "model.layers.0.self_attn.sinks",
        "model.layers.2.input_layernorm.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",  # not these frequencies
        "model.layers.0.self_attn.q_proj.weight_scale_inv",
        "score.weight",
        "embed_tokens.weight",
    ],
)
def test_a_tensor_that_nobody_asks_for_is_refused_by_name(folders, folder, verdict, key):
    path = folder("llama", tensors=lambda weights: weights | {key: torch.ones(4)})
    assert verdict(path, (key,), folders["llama"]) == "refused"


def test_frequencies_that_follow_from_the_config_are_accepted(folders, folder, verdict):
    frequencies = (10000.0 ** (-torch.arange(0, 8, 2) / 8)).to(torch.bfloat16)
    key = "model.layers.{}.self_attn.rotary_emb.inv_freq"
    tensors = lambda weights: weights | {key.format(layer): frequencies.clone() for layer in (0, 1)}  # noqa: E731
    assert verdict(folder("llama", tensors=tensors), (), folders["llama"]) == "used"


def test_a_tied_head_that_differs_is_used_and_one_that_does_not_is_the_embedding(folders, folder, verdict):
    tied = lambda config: config | {"tie_word_embeddings": True}  # noqa: E731
    path = folder("llama", config=tied)
    assert verdict(path, (), folders["llama"]) == "used"
    assert not open_checkpoint(path).model.tied
    same = lambda weights: weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}  # noqa: E731
    path = folder("llama", config=tied, tensors=same)
    assert verdict(path, (), folders["llama"]) == "used"
    assert open_checkpoint(path).model.tied


def test_a_base_model_saved_alone_is_read_if_its_head_is_the_embedding(folders, folder, verdict):
    bare = lambda weights: {key.removeprefix("model."): value for key, value in weights.items()}  # noqa: E731
    assert verdict(folder("mistral", tensors=bare), (), folders["mistral"]) == "used"
    assert verdict(folder("llama", tensors=bare), (), folders["llama"]) == "used"  # and its head beside it
    headless = lambda weights: {key: v for key, v in bare(weights).items() if key != "lm_head.weight"}  # noqa: E731
    answer = verdict(folder("llama", tensors=headless), ("lm_head.weight", "tie_word_embeddings"), folders["llama"])
    assert answer == "refused"


KEY = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "weight_map"),
        ({"weight_map": []}, "weight_map"),
        ({"weight_map": {}}, "weight_map"),
        ({"weight_map": {KEY: 3}}, KEY),
        ({"weight_map": {KEY: "../a.safetensors"}}, KEY),
        ({"weight_map": {KEY: "/etc/passwd"}}, KEY),
        ({"weight_map": {KEY: "b.safetensors"}}, "b.safetensors is missing"),
        ({"weight_map": {KEY: "a.safetensors"}}, "has a tensor 'lm_head.weight'"),
        ("one more", "has no tensor 'model.more'"),
        ("right", ""),
    ],
)
def test_an_index_says_what_its_files_hold(folders, folder, verdict, index, message):
    from safetensors.torch import load_file

    path = folder("llama")
    (path / "model.safetensors").rename(path / "a.safetensors")
    if isinstance(index, str):
        files = dict.fromkeys(load_file(path / "a.safetensors"), "a.safetensors")
        index = {"metadata": {}, "weight_map": files | ({"model.more": "a.safetensors"} if index == "one more" else {})}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert verdict(path, (message,), folders["llama"]) == ("refused" if message else "used")


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"", "read"),
    ],
)
def test_files_that_are_no_weights_are_named(folder, tmp_path, start, message):
    path = folder("llama")
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").write_bytes(start)
    (tmp_path / "a.gguf").write_bytes(start)
    for wrong in (path, tmp_path / "a.gguf"):
        with pytest.raises(BadCheckpoint, match=message):
            open_checkpoint(wrong)
