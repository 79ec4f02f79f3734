"""Families: tiny random models of each, through the fp32 ONNX graph, against transformers and then the oracle."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from edgesink.export.bundle import export
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
    "gemma3_text": {"num_hidden_layers": 4, "sliding_window": 9, "sliding_window_pattern": 2, "head_dim": 16},
    "gemma3_text wide": {
        "layer_types": NEAR_FAR, "sliding_window": 32, "head_dim": 16, "query_pre_attn_scalar": 8,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}, "sliding_attention": LOCAL,
        },
    },
    "phi3": {"tie_word_embeddings": True},
    "phi3 window": {"sliding_window": 11},
    "phi3 longrope": {
        "rope_parameters": LONG | {"rope_theta": 1e4, "partial_rotary_factor": 0.4},
        "original_max_position_embeddings": 64,
    },
    "granite": {
        "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.09, "logits_scaling": 8.0,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
"""What a config changes, by the family, which is the first word, and what is tried."""


def random_model(case: str):
    """transformers' model of a case; norms and biases are random too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(case.partition(" ")[0], **{"tie_word_embeddings": False, **SMALL, **CASES[case]})
    return randomised(AutoModelForCausalLM.from_config(config).eval())


def randomised(model):
    """The model with vectors that are neither ones nor zeros."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@dataclasses.dataclass(frozen=True)
class Case:
    """A model as transformers has it, as a folder, and as a bundle."""

    name: str
    model: object
    folder: Path
    bundle: Path


@pytest.fixture(scope="module", params=CASES)
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


def test_held_weights_go_back_into_the_modules_they_came_from(case):
    """In float32 nothing is rounded but by folding: the model is as it was."""
    before, after = case.model.state_dict(), held_model(case.folder, "fp32").state_dict()
    for name, tensor in before.items():
        assert torch.allclose(after[name], tensor, rtol=1e-6, atol=1e-6), name


def test_half_precision_reaches_every_matrix_of_the_held_model(case):
    """What is rounded differs from what it was: no slice of a fused matrix is forgotten."""
    before, after = case.model.state_dict(), held_model(case.folder, "fp16").state_dict()
    for name, tensor in before.items():
        if tensor.dim() == 2:
            assert torch.equal(after[name], tensor.half().float()), name
