"""Families: tiny random models of each, through the fp32 ONNX graph, against transformers and then the oracle."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgesink.errors import BadCheckpoint, BadOption
from edgesink.export.bundle import export
from edgesink.export.checkpoint import open_checkpoint, weight_names
from edgesink.export.families.fused import from_fused, side_by_side
from edgesink.export.recipe import Recipe
from edgesink.export.to_torch import RingDecoder, sink_corrected
from edgesink.reference import Reference
from edgesink.runtime.session import load
from edgesink.spec import StreamSpec
from edgesink.verify.held_model import held_model

STREAM = StreamSpec(sinks=4, window=20, max_sinks=8, chunk=5)  # 28 rows
LAPS = 3
CLOSE = 1e-4  # of the logits' spread: float32 both, and the order of sums differs
SMALL = {
    "vocab_size": 258, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.1, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 0,
}  # fmt: skip
NEAR_FAR = ["sliding_attention", "full_attention", "sliding_attention"]
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.3], "long_factor": [2.0, 3.0, 4.0]}
LOCAL = {"rope_type": "default", "rope_theta": 100.0}
MINISTRAL = YARN | {"llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0}

CASES = {
    "llama": {},
    "llama linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    "llama yarn": {"rope_parameters": YARN},
    "mistral window above": {"sliding_window": 40},
    "mistral window below": {"sliding_window": 9},
    "ministral3": {"rope_parameters": MINISTRAL},
    "qwen2": {"tie_word_embeddings": True},
    "qwen2 windows": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "qwen2 layer_types": {"use_sliding_window": True, "sliding_window": 7, "layer_types": NEAR_FAR},
    "qwen3": {"head_dim": 24},
    "qwen3 windows above and below": {"use_sliding_window": True, "sliding_window": 30, "max_window_layers": 2},
    "smollm3": {"num_hidden_layers": 5},
    "smollm3 listed": {"no_rope_layers": [0, 1, 1]},
    "smollm3 windows": {"no_rope_layers": [1, 0, 0], "use_sliding_window": True, "sliding_window": 8},
    "gemma2": {
        "num_hidden_layers": 4, "sliding_window": 9, "head_dim": 16, "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 0.6, "final_logit_softcapping": 1.5,
    },
    "gemma2 window above": {
        "layer_types": NEAR_FAR, "sliding_window": 32, "head_dim": 16, "attn_logit_softcapping": 0.2,
        "final_logit_softcapping": None,
    },
    "gemma3_text": {"num_hidden_layers": 4, "sliding_window": 9, "sliding_window_pattern": 2, "head_dim": 16},
    "gemma3_text wide": {
        "layer_types": NEAR_FAR, "sliding_window": 32, "head_dim": 16, "query_pre_attn_scalar": 8,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}, "sliding_attention": LOCAL,
        },
    },
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 3, "max_seq_len": 512, "tie_word_embeddings": True},
    "mpt six heads": {
        "d_model": 96, "n_heads": 6, "n_layers": 3, "max_seq_len": 64,
        "attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.4, "attn_impl": "triton"},
    },
    "olmo2": {"head_dim": 16},
    "olmo3": {
        "layer_types": NEAR_FAR, "sliding_window": 9,
        "rope_parameters": {"full_attention": YARN, "sliding_attention": LOCAL},
    },
    "olmo3 window above": {"num_hidden_layers": 4, "sliding_window": 30},
    "phi3": {"tie_word_embeddings": True},
    "phi3 window": {"sliding_window": 11},
    "phi3 longrope": {
        "rope_parameters": LONG | {"rope_theta": 1e4, "partial_rotary_factor": 0.4},
        "original_max_position_embeddings": 64,
    },
    "seed_oss": {"head_dim": 32},
    "seed_oss without biases": {"attention_bias": False, "head_dim": 16},
    "gpt_neox": {},
    "gpt_neox in turn": {"use_parallel_residual": False, "hidden_act": "gelu_new", "tie_word_embeddings": True},
    "gpt_neox without biases": {"attention_bias": False, "rope_parameters": {
        "rope_type": "linear", "rope_theta": 1e4, "factor": 4.0, "partial_rotary_factor": 0.5}},
    "stablelm": {"use_qkv_bias": True},
    "stablelm side by side": {"use_parallel_residual": True, "rope_parameters": {
        "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "falcon": {},
    "falcon new": {"new_decoder_architecture": True, "num_kv_heads": 2, "tie_word_embeddings": True},
    "falcon new, one norm": {
        "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1, "bias": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    },
    "falcon in turn": {"parallel_attn": False, "multi_query": False, "bias": True, "activation": "gelu_new"},
    "granite": {
        "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.09, "logits_scaling": 8.0,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
"""What a config changes, by the family, which is the first word, and what is tried."""


def random_model(case: str):
    """transformers' model of a case; norms and biases are random too."""
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    if case not in CASES:
        return images_and_text(case.partition(" ")[0])
    kind = case.partition(" ")[0]
    known = {field.name for field in dataclasses.fields(CONFIG_MAPPING[kind])}
    small = {name: value for name, value in SMALL.items() if name in known}
    config = AutoConfig.for_model(kind, **{"tie_word_embeddings": False, **small, **CASES[case]})
    return randomised(AutoModelForCausalLM.from_config(config).eval())


def randomised(model):
    """The model with vectors that are neither ones nor zeros."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def images_and_text(kind: str):
    """transformers' model of images and text, tiny, with a text part of a family."""
    import transformers

    seeing = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    seeing |= {"image_size": 28, "patch_size": 14}
    if kind == "gemma3":
        text = {**SMALL, "layer_types": NEAR_FAR, "sliding_window": 9, "head_dim": 16, "tie_word_embeddings": True}
        seeing |= {"model_type": "siglip_vision_model"}
        config = transformers.Gemma3Config(text_config=text, vision_config=seeing, mm_tokens_per_image=1)
        return randomised(transformers.Gemma3ForConditionalGeneration(config).eval())
    text = {**SMALL, "model_type": "ministral3", "head_dim": 16, "rope_parameters": MINISTRAL}
    seeing |= {"model_type": "pixtral", "head_dim": 16}
    config = transformers.Mistral3Config(text_config=text, vision_config=seeing, tie_word_embeddings=False)
    return randomised(transformers.Mistral3ForConditionalGeneration(config).eval())


@dataclasses.dataclass(frozen=True)
class Case:
    """A model as transformers has it, as a folder, and as a bundle."""

    name: str
    model: object
    folder: Path
    bundle: Path


@pytest.fixture(scope="module", params=[*CASES, "gemma3 images and text", "mistral3 images and text"])
def case(request, tmp_path_factory, toy):
    folder = tmp_path_factory.mktemp("family")
    model = random_model(request.param)
    model.save_pretrained(folder / "model")
    copy_tokenizer(toy, folder / "model")
    export(folder / "model", folder / "bundle", "onnx", STREAM, "fp32")
    return Case(request.param, model, folder / "model", folder / "bundle")


def copy_tokenizer(toy, folder: Path) -> None:
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copyfile(toy.path / name, folder / name)


def ids_of(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(2, SMALL["vocab_size"], count)


def check_close(got: np.ndarray, expected: np.ndarray) -> None:
    difference = np.abs(got - expected)
    limit = CLOSE * float(expected.std())
    assert difference.max() < limit, f"max {difference.max():.1e}, mean {difference.mean():.1e}, limit {limit:.1e}"


def test_a_bundle_is_the_dense_model_and_then_the_oracle(case):
    ids = ids_of(LAPS * STREAM.rows + 3)
    reference = Reference(case.model, STREAM.sinks, STREAM.window)
    expected = np.stack([reference.step(int(token)) for token in ids])
    stream = load(case.bundle)
    got = np.stack([stream.step(int(token)) for token in ids])
    with torch.inference_mode():
        dense = case.model(torch.tensor(ids[None, : STREAM.capacity])).logits[0].numpy()
    check_close(got[: STREAM.capacity], dense)
    check_close(got, expected)
    for sizes in ([5], [1, 4, 2, 5, 3]):
        stream.reset()
        for turn in range(len(ids)):
            end = min(stream.position + sizes[turn % len(sizes)], len(ids))
            check_close(stream.prefill(ids[stream.position : end]), expected[end - 1])
            if end == len(ids):
                break


@pytest.mark.parametrize("sinks", [0, 1, STREAM.max_sinks])
@pytest.mark.parametrize("case", ["gemma2", "mpt six heads", "olmo3"], indirect=True)
def test_a_bundle_is_the_oracle_with_any_number_of_sinks(case, sinks):
    """The families whose attention is not that of the others."""
    ids = ids_of(LAPS * STREAM.rows)
    reference, stream = Reference(case.model, sinks, STREAM.capacity - sinks), load(case.bundle, sinks=sinks)
    check_close(
        np.stack([stream.step(int(token)) for token in ids]), np.stack([reference.step(int(token)) for token in ids])
    )


def test_positions_of_the_stream_are_refused_where_nothing_turns(tmp_path, toy):
    """Slopes of a distance that grows would be another model; transformers has none to compare with."""
    model = random_model("mpt")
    model.save_pretrained(tmp_path / "model")
    copy_tokenizer(toy, tmp_path / "model")
    growing = dataclasses.replace(STREAM, positions="original")
    with pytest.raises(BadOption, match="positions 'original' of a model with ALiBi"):
        export(tmp_path / "model", tmp_path / "bundle", "onnx", growing, "fp32")
    assert not (tmp_path / "bundle").exists()
    with pytest.raises(BadOption, match="positions 'original' of a model that turns no keys"):
        Reference(model, 4, 20, positions="original")


def test_held_weights_go_back_into_the_modules_they_came_from(case):
    """In float32 nothing is rounded but by folding: the model is as it was."""
    before, after = case.model.state_dict(), held_model(case.folder, "fp32").state_dict()
    for name, tensor in before.items():
        assert torch.allclose(after[name], tensor, rtol=1e-6, atol=1e-6), name


def test_half_precision_reaches_every_matrix_of_the_held_model(case):
    """What is rounded differs from what it was: no slice of a fused matrix is forgotten."""
    before, after = case.model.state_dict(), held_model(case.folder, "fp16").state_dict()
    for name, tensor in before.items():
        if tensor.dim() == 2 and "vision" not in name and "projector" not in name:
            assert torch.equal(after[name], tensor.half().float()), name


def last_logits(path: Path, spoil=lambda checkpoint: checkpoint.model) -> np.ndarray:
    """Our decoder's logits after a few tokens of the checkpoint, its spec or its sources spoiled: float32 [V]."""
    checkpoint = open_checkpoint(path)
    spec = spoil(checkpoint)
    weights = {name: torch.from_numpy(checkpoint.tensor(name)) for name in weight_names(spec)}
    decoder, ids = RingDecoder(spec, STREAM, weights, sink_corrected), torch.tensor(ids_of(STREAM.capacity)[None])
    for start in range(0, STREAM.capacity, STREAM.chunk):
        with torch.inference_mode():
            piece = ids[:, start : start + STREAM.chunk]
            logits = decoder(piece, torch.tensor([start]), torch.tensor([STREAM.sinks]))
    return logits[0].numpy()


def with_views(checkpoint, change):
    """The spec with every view but the first of them changed by what the first has."""
    first, *others = checkpoint.model.views
    return dataclasses.replace(checkpoint.model, views=(first, *(change(view, first) for view in others)))


def with_first_view(checkpoint, **changes):
    """The spec with another first view."""
    first, *others = checkpoint.model.views
    return dataclasses.replace(checkpoint.model, views=(dataclasses.replace(first, **changes), *others))


def from_shuffled_heads(checkpoint):
    """The spec, and weights as if the dimensions that turn stood as pairs (i, i + D/2) already."""
    family, model = checkpoint._family, checkpoint.model
    shift = {"q": 0, "k": model.heads}

    def source(weight, model):
        found, name = family.source(weight, model), weight.rpartition(".")[2]
        if name not in shift:
            return found
        start = shift[name] * model.head_dim
        return dataclasses.replace(found, rows=np.arange(start, start + len(found.rows)))

    checkpoint._family = dataclasses.replace(family, source=source)
    return model


def without_the_one(checkpoint):
    """The spec, and norms as if they were not 1 + w."""
    family = checkpoint._family
    plain = lambda weight, model: dataclasses.replace(family.source(weight, model), plus=0.0)  # noqa: E731
    checkpoint._family = dataclasses.replace(family, source=plain)
    return checkpoint.model


def in_order_of_the_file(checkpoint):
    """The spec, and rows as they stand in the file."""
    family = checkpoint._family
    source = lambda weight, model: dataclasses.replace(family.source(weight, model), rows=None)  # noqa: E731
    checkpoint._family = dataclasses.replace(family, source=source)
    return checkpoint.model


def with_rows_of(order):
    """The spec, and q, k and v as if their heads stood in the fused matrix in this order."""

    def spoil(checkpoint):
        family = checkpoint._family
        source = lambda weight, model: from_fused(family.source(weight, model), weight, model, order)  # noqa: E731
        checkpoint._family = dataclasses.replace(family, source=source)
        return checkpoint.model

    return spoil


def with_norms_swapped(checkpoint):
    """The spec, and the norms of attention and MLP as if one were the other."""
    family, others = checkpoint._family, {"attention_norm": "mlp_norm", "mlp_norm": "attention_norm"}

    def source(weight, model):
        layer, _, name = weight.rpartition(".")
        kind = name.removesuffix("_bias")
        other = f"{layer}.{others[kind]}{name.removeprefix(kind)}" if kind in others else weight
        return family.source(other, model)

    checkpoint._family = dataclasses.replace(family, source=source)
    return checkpoint.model


def amplified(checkpoint, amplitude):
    """The spec with another amplitude of every cosine and sine."""
    (view,) = checkpoint.model.views
    view = dataclasses.replace(view, rotary=dataclasses.replace(view.rotary, amplitude=amplitude))
    return dataclasses.replace(checkpoint.model, views=(view,))


TRAPS = {
    "one rotary base for all": (
        "gemma3_text", lambda c: with_views(c, lambda view, first: dataclasses.replace(view, rotary=first.rotary))
    ),
    "no window of its own": (
        "qwen2 layer_types",
        lambda c: dataclasses.replace(c.model, views=(dataclasses.replace(c.model.views[0], window=None),) * 2),
    ),
    "positions in the layers without": (
        "smollm3 listed", lambda c: dataclasses.replace(c.model, view_of=tuple(1 - view for view in c.model.view_of))
    ),
    "heads that turn in part, unordered": ("phi3 longrope", from_shuffled_heads),
    "no amplitude": ("phi3 longrope", lambda c: amplified(c, 1.0)),
    "no cap on scores": ("gemma2", lambda c: dataclasses.replace(c.model, score_cap=None)),
    "no cap on logits": ("gemma2", lambda c: dataclasses.replace(c.model, logits_cap=None)),
    "queries and keys that are not normed": (
        "olmo2", lambda c: dataclasses.replace(c.model, weights=[w for w in c.model.weights if "whole" not in w])
    ),
    "OLMo's windows turned as the others": (
        "olmo3", lambda c: with_views(c, lambda view, first: dataclasses.replace(view, rotary=first.rotary))
    ),
    "slopes in the order of a power of two": (
        "mpt six heads",
        lambda c: with_first_view(c, slopes=(*sorted(c.model.views[0].slopes, reverse=True),)),
    ),
    "no slopes": ("mpt", lambda c: with_first_view(c, slopes=())),
    "values that are not clipped": ("mpt six heads", lambda c: dataclasses.replace(c.model, clip=None)),
    "heads of a fused matrix in groups": ("gpt_neox", with_rows_of(side_by_side)),
    "one head of keys among the groups": ("falcon new", with_rows_of(side_by_side)),
    "norms of attention and MLP": ("falcon new", with_norms_swapped),
    "attention and MLP side by side": ("gpt_neox", lambda c: dataclasses.replace(c.model, parallel=False)),
    "attention and MLP in turn": ("gpt_neox in turn", lambda c: dataclasses.replace(c.model, parallel=True)),
    "heads that turn in part, apart": ("stablelm", in_order_of_the_file),
    "norms without 1": ("gemma3_text", without_the_one),
    "a residual stream that is not scaled": ("granite", lambda c: dataclasses.replace(c.model, embedding_scale=12.0)),
}  # fmt: skip
"""What is silently wrong where an exporter overlooks it: a model that has it, and the spec that has not."""


@pytest.mark.parametrize("trap", TRAPS)
def test_what_an_exporter_may_overlook_would_be_seen(tmp_path, trap):
    case, spoil = TRAPS[trap]
    model = random_model(case)
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        expected = model(torch.tensor(ids_of(STREAM.capacity)[None])).logits[0, -1].numpy()
    check_close(last_logits(tmp_path), expected)
    with pytest.raises(AssertionError, match="limit"):
        check_close(last_logits(tmp_path, spoil), expected)


@pytest.mark.parametrize(("case", "context"), [("ministral3", 64), ("phi3 longrope", 64), ("mpt six heads", 64)])
def test_a_capacity_beyond_the_original_context_is_refused(tmp_path, case, context):
    random_model(case).save_pretrained(tmp_path)
    model = open_checkpoint(tmp_path).model
    Recipe.fitted(stream=StreamSpec.fitted(window=context - 4)).check_model(model)
    with pytest.raises(BadOption, match=f"{context} at most, its original context"):
        Recipe.fitted(stream=StreamSpec.fitted(window=context - 3)).check_model(model)


REFUSED = {
    "gemma2": [
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"sliding_window_size": 8}, "sliding_window_size = 8"),
        ({"attn_logit_softcapping": 0.0}, "attn_logit_softcapping = 0.0"),
        ({"final_logit_softcapping": "30"}, "final_logit_softcapping = '30'"),
        ({"sliding_window": None}, "sliding_window = None"),
    ],
    "gemma3_text": [
        ({"final_logit_softcapping": 30.0}, "a soft cap on the logits"),
        ({"attn_logit_softcapping": 50.0}, "a soft cap on the scores"),
        ({"use_bidirectional_attention": True}, "tokens that see those after them"),
        ({"rope_parameters": {"rope_type": "default"}}, "rope_type = 'default'"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
    ],
    "mpt": [
        ({"no_bias": False}, "no_bias = False"),
        ({"expansion_ratio": 2}, "expansion_ratio = 2"),
        ({"norm_type": "rmsnorm"}, "norm_type = 'rmsnorm'"),
        ({"logit_scale": "inv_sqrt_d_model"}, "logit_scale = 'inv_sqrt_d_model'"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}, "auto_map"),
        ({"attn_config": {"alibi": False}}, "learned positions"),
        ({"attn_config": {"alibi_bias_max": 16}}, "attn_config has alibi_bias_max = 16"),
        ({"attn_config": {"attn_impl": "ring"}}, "attn_impl = 'ring'"),
        ({"attn_config": {"attn_type": "multiquery_attention"}}, "attn_type = 'multiquery_attention'"),
        ({"attn_config": {"prefix_lm": True}}, "prefix_lm = True"),
        ({"attn_config": {"qk_ln": True}}, "qk_ln = True"),
        ({"attn_config": {"attn_uses_sequence_id": True}}, "attn_uses_sequence_id = True"),
        ({"attn_config": {"clip_qkv": 0.0}}, "clip_qkv = 0.0"),
        ({"attn_config": {"rope": True}}, "attn_config has rope = True"),
        ({"attn_config": 3}, "attn_config = 3"),
    ],
    "olmo2": [
        ({"sliding_window": 9}, "sliding_window = 9"),
        ({"attention_bias": True}, "biases of attention, of its output too"),
    ],
    "olmo3": [
        ({"rope_theta": 1e4}, "rope_theta = 10000.0"),
        ({"sliding_window": None}, "sliding_window = None"),
        ({"rope_parameters": LOCAL}, "rope_parameters has rope_theta = 100.0"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
    ],
    "smollm3 listed": [
        ({"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ({"no_rope_layers": [True] * 3}, "no_rope_layers"),
        ({"layer_types": ["sliding_attention"] * 3}, "no sliding window is used"),
    ],
    "phi3": [
        ({"partial_rotary_factor": 0.3}, "partial_rotary_factor"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}, "auto_map"),
        ({"rope_parameters": LONG | {"short_factor": [1.0]}}, "short_factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type = 'linear'"),
        ({"attention_bias": True}, "biases of attention"),
    ],
    "qwen2": [
        ({"layer_types": NEAR_FAR}, "no sliding window is used"),
        ({"max_window_layers": -1}, "max_window_layers"),
    ],
    "gpt_neox": [
        ({"rope_parameters": {"partial_rotary_factor": 0.2}}, "partial_rotary_factor = 0.2"),
        ({"rotary_pct": 0.5}, "rotary_pct = 0.5"),
        ({"rotary_emb_base": 777}, "rotary_emb_base = 777"),
        ({"head_dim": 8}, "head_dim = 8"),
        ({"num_key_value_heads": 2}, "num_key_value_heads = 2"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
    ],
    "stablelm": [({"qk_layernorm": True}, "one for each head"), ({"partial_rotary_factor": 0.5}, "one share")],
    "falcon": [
        ({"alibi": True}, "ALiBi"),
        ({"multi_query": False, "num_kv_heads": 2}, "num_kv_heads = 2"),
        ({"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn = 2"),
        ({"new_decoder_architecture": True, "parallel_attn": False}, "parallel_attn = False"),
        ({"new_decoder_architecture": True, "num_kv_heads": 3}, "num_kv_heads = 3"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}, "auto_map"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
    ],
    "granite": [({"residual_multiplier": 0.0}, "residual_multiplier = 0.0"), ({"num_local_experts": 4}, "experts")],
    "ministral3": [({"rope_parameters": None}, "rope_parameters"), ({"rope_parameters": YARN}, "llama_4_scaling_beta")],
    "qwen3": [({"attention_bias": True}, "biases of attention, of its output too")],
    "llama": [
        ({"model_type": "qwen3_moe"}, "a mixture of experts"),
        ({"model_type": "gpt_oss"}, "a mixture of experts"),
        ({"model_type": "minicpm3"}, "MLA"),
        ({"model_type": "falcon_mamba"}, "a recurrent model"),
        ({"model_type": "lfm2"}, "a hybrid"),
        ({"model_type": "qwen3_next"}, "a hybrid"),
        ({"model_type": "gemma3n_text"}, "an embedding for each layer"),
        ({"model_type": "hunyuan_v1_dense"}, "turned already"),
        ({"model_type": "bert"}, "an encoder"),
    ],
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_family_does_not_compute_is_refused_with_the_reason(tmp_path, case):
    random_model(case).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    for change, reason in REFUSED[case]:
        (tmp_path / "config.json").write_text(json.dumps(values | change))
        with pytest.raises(BadCheckpoint) as refusal:
            open_checkpoint(tmp_path)
        assert reason in str(refusal.value)


def test_old_spellings_of_gemma_are_read(tmp_path):
    """As the hub has it: two thetas, a scaling of the layers that see all, a pattern."""
    random_model("gemma3_text wide").save_pretrained(tmp_path)
    new = open_checkpoint(tmp_path).model
    values = json.loads((tmp_path / "config.json").read_text())
    del values["rope_parameters"], values["layer_types"]
    values |= {"rope_theta": 1e6, "rope_local_base_freq": 100.0, "rope_scaling": {"type": "linear", "factor": 8.0}}
    values |= {"sliding_window_pattern": 2, "cache_implementation": "hybrid"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert open_checkpoint(tmp_path).model == new


def pythia_as_the_hub_has_it(folder: Path) -> dict[str, torch.Tensor]:
    """The folder of a GPT-NeoX of old: fields of old names, and what follows from them among the tensors."""
    values = json.loads((folder / "config.json").read_text())
    del values["rope_parameters"], values["attention_bias"]
    (folder / "config.json").write_text(json.dumps(values | {"rotary_pct": 0.25, "rotary_emb_base": 10000}))
    attention, context = "gpt_neox.layers.1.attention", values["max_position_embeddings"]
    frequencies = 10000.0 ** (-torch.arange(0, 4, 2) / 4)
    return load_file(folder / "model.safetensors") | {
        f"{attention}.bias": torch.ones(1, 1, context, context, dtype=torch.bool).tril(),
        f"{attention}.masked_bias": torch.tensor(-1e9),
        f"{attention}.rotary_emb.inv_freq": frequencies,
    }


@pytest.mark.parametrize("name", ["bias", "masked_bias", "rotary_emb.inv_freq"])
def test_pythia_is_read_as_the_hub_has_it(tmp_path, name):
    random_model("gpt_neox").save_pretrained(tmp_path)
    new = open_checkpoint(tmp_path).model
    tensors = pythia_as_the_hub_has_it(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert open_checkpoint(tmp_path).model == new
    key = f"gpt_neox.layers.1.attention.{name}"
    other = tensors | {key: ~tensors[key] if name == "bias" else 2 * tensors[key]}
    save_file(other, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadCheckpoint, match=name):
        open_checkpoint(tmp_path)


def test_falcon_is_read_as_the_hub_has_it(tmp_path):
    """The first ones say no number of key and value heads, and nothing of positions."""
    random_model("falcon").save_pretrained(tmp_path)
    new = open_checkpoint(tmp_path).model
    values = json.loads((tmp_path / "config.json").read_text())
    for name in ("rope_parameters", "num_kv_heads", "num_ln_in_parallel_attn", "ffn_hidden_size", "activation"):
        del values[name]
    code = {"AutoConfig": "configuration_falcon.FalconConfig", "AutoModel": "modeling_falcon.FalconModel"}
    values |= {"auto_map": code, "apply_residual_connection_post_layernorm": False}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert open_checkpoint(tmp_path).model == new
    assert new.kv_heads == 1
