"""Families as llama.cpp's converter writes them: the same decoder and the same weights as the folder gives.

The converter's steps are spelled out here; tensors get the names that the gguf package has for transformers' own.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, RopeScalingType, get_tensor_name_map

from edgesink.errors import BadCheckpoint
from edgesink.export.checkpoint import open_checkpoint, weight_names
from edgesink.export.families.spelling import gguf_source
from edgesink.verify.held_model import held_model

SMALL = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.1, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LONG = {
    "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [2.0, 3.0, 4.0, 5.0],
    "rope_theta": 1e4, "partial_rotary_factor": 0.5,
}  # fmt: skip
GLOBAL = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
LOCAL = {"rope_type": "default", "rope_theta": 1e4}

CASES = {
    "llama": {"tie_word_embeddings": True},
    "llama rope_freqs": {"rope_parameters": LLAMA3},
    "qwen2": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "qwen2 yarn": {
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128,
        }
    },
    "qwen3": {"head_dim": 128},
    "smollm3": {"num_hidden_layers": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 2e6}},
    "gemma2": {
        "num_hidden_layers": 3, "head_dim": 256, "sliding_window": 16, "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True,
    },
    "gemma2 27B": {
        "num_hidden_layers": 46, "head_dim": 32, "sliding_window": 16, "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 0.5, "final_logit_softcapping": 1.5, "tie_word_embeddings": True,
    },
    "gemma3_text": {
        "num_hidden_layers": 7, "head_dim": 256, "sliding_window": 16, "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True, "rope_parameters": {"full_attention": GLOBAL, "sliding_attention": LOCAL},
    },
    "olmo2": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "phi3": {"tie_word_embeddings": True},
    "phi3 longrope": {"rope_parameters": LONG, "original_max_position_embeddings": 64, "sliding_window": 16},
    "granite": {
        "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.09, "logits_scaling": 8.0,
    },
    "gpt_neox": {},
    "gpt_neox in turn": {"use_parallel_residual": False},
    "stablelm": {"use_qkv_bias": True},
    "stablelm side by side": {"use_parallel_residual": True},
    "falcon": {"tie_word_embeddings": True, "max_position_embeddings": 2048},
    "falcon new": {"new_decoder_architecture": True, "num_kv_heads": 2, "max_position_embeddings": 2048},
}  # fmt: skip
BY_TRANSFORMERS = [case for case in CASES if case.partition(" ")[0] not in ("smollm3", "granite", "gpt_neox", "olmo2")]
BY_TRANSFORMERS.remove("falcon new")
"""transformers reads no GGUF of the others, or not the whole of it."""
ARCHITECTURES = {"gemma3_text": MODEL_ARCH.GEMMA3, "gpt_neox": MODEL_ARCH.GPTNEOX}
FUSED = ("gpt_neox", "falcon")
LAYER_NORMS = (*FUSED, "stablelm")


def random_model(case: str):
    """transformers' model of a case; norms and biases are random too."""
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    kind = case.partition(" ")[0]
    known = {field.name for field in dataclasses.fields(CONFIG_MAPPING[kind])}
    small = {name: value for name, value in SMALL.items() if name in known}
    config = AutoConfig.for_model(kind, **{**small, **CASES[case]})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def interleaved(tensor: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k as llama.cpp's converter puts them for Llama's likes."""
    pairs = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)


def key_heads(config) -> int:
    """As the converter counts them."""
    if config.model_type == "falcon":
        return config.num_kv_heads if config.new_decoder_architecture else 1
    return getattr(config, "num_key_value_heads", config.num_attention_heads)


def kinds_apart(tensor: np.ndarray, heads: int, key_heads: int) -> np.ndarray:
    """Rows of a matrix of q, k and v in groups of heads, as the converter puts them: all of q, all of k, all of v."""
    head_dim = tensor.shape[0] // (heads + 2 * key_heads)
    groups = tensor.reshape(key_heads, heads // key_heads + 2, head_dim, *tensor.shape[1:])
    parts = groups[:, :-2], groups[:, [-2]], groups[:, [-1]]
    return np.concatenate([part.reshape(-1, *tensor.shape[1:]) for part in parts])


def llama3_divisors(rope: dict, head_dim: int) -> np.ndarray:
    """What the converter stores as rope_freqs.weight."""
    divisors, context = [], rope["original_max_position_embeddings"]
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / head_dim)
        if wavelength < context / rope["high_freq_factor"]:
            divisors.append(1.0)
        elif wavelength > context / rope["low_freq_factor"]:
            divisors.append(rope["factor"])
        else:
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            smooth = (context / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(divisors, np.float32)


def write(path: Path, model) -> Path:
    """The model as llama.cpp's converter writes it."""
    config = model.config
    arch = ARCHITECTURES.get(config.model_type) or MODEL_ARCH[config.model_type.upper()]
    writer = GGUFWriter(path, MODEL_ARCH_NAMES[arch])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or config.ffn_hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type != "gpt_neox":
        writer.add_head_count_kv(key_heads(config))
    if config.model_type in LAYER_NORMS:
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.model_type == "falcon":
        writer.add_tensor_data_layout("jploski")
    if config.model_type in ("gpt_neox", "stablelm"):  # whose flag the converter takes for true where it is not said
        writer.add_parallel_residual(config.use_parallel_residual or config.model_type == "stablelm")
    writer.add_token_list([f"t{i}" for i in range(config.vocab_size)])
    writer.add_tokenizer_model("gpt2")
    writer.add_pad_token_id(config.pad_token_id)
    write_positions(writer, config, head_dim)
    if config.model_type in ("qwen3", "gemma2", "gemma3_text"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if config.model_type in ("gemma2", "gemma3_text", "phi3"):
        writer.add_sliding_window(config.sliding_window or 0)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.model_type == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    write_tensors(writer, model, arch)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_positions(writer: GGUFWriter, config, head_dim: int) -> None:
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    kind, original = rope["rope_type"], rope.get("original_max_position_embeddings")
    if config.model_type not in LAYER_NORMS:
        writer.add_rope_freq_base(rope["rope_theta"])
    if config.model_type != "falcon":
        writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType[kind.upper()])
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(original)
    if kind == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(rope, head_dim))
    if kind == "longrope":
        scale = config.max_position_embeddings / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)))
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))


def write_tensors(writer: GGUFWriter, model, arch: MODEL_ARCH) -> None:
    config, names = model.config, get_tensor_name_map(arch, model.config.num_hidden_layers)
    heads = {"attn_q": config.num_attention_heads, "attn_k": key_heads(config)}
    for key, parameter in model.named_parameters():
        tensor, name = parameter.detach().numpy(), names.get_name(key, try_suffixes=(".weight", ".bias"))
        count = heads.get(name.split(".")[-2])
        if count and config.model_type in ("llama", "smollm3", "granite"):
            tensor = interleaved(tensor, count)
        if "query_key_value" in key:
            tensor = kinds_apart(tensor, config.num_attention_heads, key_heads(config))
        if key.endswith("norm.weight") and config.model_type in ("gemma2", "gemma3_text"):
            tensor = tensor + np.float32(1)
        writer.add_tensor(name, np.ascontiguousarray(tensor))


@dataclasses.dataclass(frozen=True)
class Pair:
    """A model as transformers has it, as a folder and as a GGUF."""

    model: object
    folder: Path
    gguf: Path


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory):
    made = {}

    def make(case: str) -> Pair:
        if case not in made:
            folder, model = tmp_path_factory.mktemp("gguf"), random_model(case)
            model.save_pretrained(folder)
            made[case] = Pair(model, folder, write(folder / "model.gguf", model))
        return made[case]

    return make


def close(one, other, key: str = "") -> bool:
    """Equal but for what a file rounds to float32."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[name], other[name], name) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return bool(np.isclose(one, other, rtol=1e-6, atol=0)) if isinstance(one, float) else one == other


@pytest.mark.parametrize("case", CASES)
def test_a_gguf_is_the_decoder_and_the_weights_of_its_folder(pair_of, case):
    pair = pair_of(case)
    ours, right = open_checkpoint(pair.gguf), open_checkpoint(pair.folder)
    found, expected = ours.model.as_data(), right.model.as_data()
    differing = {name: (found[name], expected[name]) for name in found if not close(found[name], expected[name])}
    assert not differing
    for name in weight_names(right.model):
        assert np.allclose(ours.tensor(name), right.tensor(name), rtol=1e-6, atol=1e-7), name


@pytest.mark.parametrize("case", BY_TRANSFORMERS)
def test_the_oracle_of_a_gguf_is_the_model_that_it_was_made_of(pair_of, case):
    """Also where transformers overlooks what a GGUF says of its positions."""
    pair, ids = pair_of(case), torch.arange(2, 34)[None]
    with torch.inference_mode():
        expected = pair.model(ids).logits[0]
        difference = (held_model(pair.gguf, "fp32")(ids).logits[0] - expected).abs().max()
    assert difference < 1e-4 * expected.std()


SEEN_AT = {"token_embd": "output", "attn_norm_2": "falcon.rope.freq_base"}  # without a second norm it is Falcon 2


@pytest.mark.parametrize("case", ["gpt_neox", "stablelm", "falcon new"])
def test_each_tensor_dropped_renamed_reshaped_or_no_number_is_refused_by_name(tmp_path, case):
    add, model = GGUFWriter.add_tensor, random_model(case)
    changes = {
        "dropped": lambda name, tensor: [],
        "renamed": lambda name, tensor: [(f"{name}_", tensor)],
        "a row less": lambda name, tensor: [(name, tensor[:-1])],
        "NaN": lambda name, tensor: [(name, tensor * np.nan)],
    }
    added: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            GGUFWriter, "add_tensor", lambda writer, name, tensor: (added.append(name), add(writer, name, tensor))
        )
        write(tmp_path / "whole.gguf", model)
    for key in (name for name in added if not name.startswith(("blk.1.", "blk.2."))):
        for change, tensors in changes.items():
            if (key, change) == ("output.weight", "dropped"):
                continue  # the head is the embedding

            def changed(writer, name, tensor, key=key, tensors=tensors):
                for other, values in tensors(name, tensor) if name == key else [(name, tensor)]:
                    add(writer, other, values)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(GGUFWriter, "add_tensor", changed)
                path = write(tmp_path / "changed.gguf", model)
            stem = key.removeprefix("blk.0.").rpartition(".")[0]
            with pytest.raises(BadCheckpoint, match=f"{stem}|{SEEN_AT.get(stem, stem)}"):
                read_all(path)


def read_all(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    for weight in weight_names(checkpoint.model):
        checkpoint.tensor(weight)


FIELDS = {
    "gpt_neox": [
        ("add_parallel_residual", [], "lacks gptneox.use_parallel_residual"),
        ("add_rope_dimension_count", [3], "rope.dimension_count = 3"),
        ("add_rope_dimension_count", [18], "rope.dimension_count = 18"),
        ("add_layer_norm_eps", [], "lacks gptneox.attention.layer_norm_epsilon"),
    ],
    "stablelm": [("add_rope_dimension_count", [0], "rope.dimension_count = 0")],
    "falcon new": [
        ("add_tensor_data_layout", ["other"], "tensor_data_layout = 'other'"),
        ("add_head_count_kv", [3], "head_count_kv = 3"),
        ("add_head_count_kv", [4], "shape"),
    ],
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_field_that_is_missing_or_wrong_is_refused_by_name(tmp_path, case):
    model = random_model(case)
    for method, values, message in FIELDS[case]:
        add = getattr(GGUFWriter, method)
        with pytest.MonkeyPatch.context() as patch:
            changed = lambda writer, value: [add(writer, other) for other in values]  # noqa: B023, E731
            patch.setattr(GGUFWriter, method, changed)
            path = write(tmp_path / "changed.gguf", model)
        with pytest.raises(BadCheckpoint, match=message):
            open_checkpoint(path)


def test_falcon_2_is_refused_as_its_rotary_base_is_not_in_the_file(pair_of, tmp_path):
    changes = CASES["falcon new"] | {"num_ln_in_parallel_attn": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CASES, "falcon new", changes)
        model = random_model("falcon new")
    path = write(tmp_path / "falcon2.gguf", model)
    with pytest.raises(BadCheckpoint, match=r"lacks falcon.rope.freq_base"):
        open_checkpoint(path)
    with pytest.MonkeyPatch.context() as patch:
        count = GGUFWriter.add_head_count
        patch.setattr(GGUFWriter, "add_head_count", lambda w, n: (count(w, n), w.add_rope_freq_base(5e5)))
        assert open_checkpoint(write(path, model)).model.views[0].rotary.frequencies[1] < 0.2


def test_a_tokenizer_that_transformers_does_not_convert_is_refused(pair_of, tmp_path):
    with pytest.raises(BadCheckpoint, match=r"the tokenizer of .* cannot be read .*; export its original folder"):
        open_checkpoint(pair_of("gpt_neox").gguf).write_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("case", ["llama", "smollm3", "granite"])
def test_rows_that_are_not_put_back_in_order_would_be_seen(pair_of, case):
    pair = pair_of(case)
    ours, right = open_checkpoint(pair.gguf), open_checkpoint(pair.folder)
    ours._family = dataclasses.replace(ours._family, source=gguf_source)
    assert not np.allclose(ours.tensor("layers.0.q"), right.tensor("layers.0.q"), atol=1e-3)


def test_quantised_rows_of_a_fused_matrix_are_its_own(tmp_path):
    """Each weight takes its rows from the blocks as it does from the floats."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    add = GGUFWriter.add_tensor

    def quantised(writer, name, tensor):
        kind = GGMLQuantizationType.Q8_0 if tensor.ndim == 2 else None
        add(writer, name, tensor if kind is None else quantize(tensor, kind), raw_dtype=kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GGUFWriter, "add_tensor", quantised)
        checkpoint = open_checkpoint(write(tmp_path / "q8.gguf", random_model("phi3 longrope")))
    for name in ("q", "k", "v", "gate", "up"):
        blocks, floats = checkpoint.blocks(f"layers.1.{name}"), checkpoint.tensor(f"layers.1.{name}")
        assert np.allclose(blocks.dequantized(), floats, atol=1e-6), name


def test_divisors_of_another_number_of_pairs_are_refused(tmp_path):
    model = random_model("llama rope_freqs")
    model.config.rope_parameters["rope_theta"] = 1e4
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "llama3_divisors", lambda rope, head_dim: np.ones(head_dim, np.float32))
        path = write(tmp_path / "odd.gguf", model)
    with pytest.raises(BadCheckpoint, match=r"rope_freqs.weight.* has shape \(16,\)"):
        open_checkpoint(path)
