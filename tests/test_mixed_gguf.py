"""A GGUF that leaves matrices in 16-bit floats beside quantised ones: both graphs multiply with its very weights."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

from edgesink.errors import BadCheckpoint, BadOption
from edgesink.export.bundle import export
from edgesink.export.checkpoint import GgufCheckpoint
from edgesink.export.halves import halves_of_gguf
from edgesink.export.weights import describe_weights, held_weights
from edgesink.reference import Reference, load_model
from edgesink.runtime import kernels
from edgesink.runtime.session import load
from edgesink.spec import StreamSpec

SPEC = StreamSpec(4, 28, 8, 8)
IDS = np.random.default_rng(0).integers(3, 90, 80)
WIDTHS = {
    "token_embd": (90, 64), "output": (90, 64), "attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64),
    "attn_output": (64, 64), "ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96),
}  # fmt: skip
KINDS = {
    "float16": {"token_embd": "F16", "output": "F16", "attn_k": "F16", "ffn_down": "F16", "ffn_up": "Q4_0"},
    "bfloat16": {"token_embd": "BF16", "output": "BF16", "attn_q": "BF16", "attn_k": "BF16", "ffn_gate": "BF16"},
    "both": {"token_embd": "BF16", "output": "Q8_0", "attn_q": "F16", "attn_k": "BF16", "attn_v": "F16"},
}
TEXTS = {
    "float16": "F16, Q4_0, Q8_0 of the GGUF, bit for bit",
    "bfloat16": "BF16, Q8_0 of the GGUF, bit for bit",
    "both": "BF16, F16, Q8_0 of the GGUF, bit for bit",
}


def write_gguf(path: Path, kinds: dict[str, str], largest: float = 0.3) -> Path:
    """A llama of one layer with matrices of these types, the others of Q8_0."""
    writer, random = GGUFWriter(path, "llama"), np.random.default_rng(1)
    writer.add_block_count(1)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_context_length(128)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(90)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["t", "1", "t1", *(f"u{i}" for i in range(87))])
    writer.add_token_types([1] * 90)
    writer.add_token_merges(["t 1"])
    writer.add_eos_token_id(2)
    for name, shape in WIDTHS.items():
        kind = GGMLQuantizationType[kinds.get(name, "Q8_0")]
        values = random.normal(size=shape).astype(np.float32) * np.float32(0.3)
        values[0, 0] = largest if name in kinds else 0.3
        block = "" if name in ("token_embd", "output") else "blk.0."
        writer.add_tensor(f"{block}{name}.weight", quantize(values, kind), raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module", params=KINDS)
def mixed(request, tmp_path_factory):
    """(which of `KINDS`, the file, its bundle, its manifest)."""
    folder = tmp_path_factory.mktemp(request.param)
    path = write_gguf(folder / "mixed.gguf", KINDS[request.param])
    return request.param, path, folder / "bundle", export(path, folder / "bundle", "onnx", SPEC, "int4")


@pytest.mark.parametrize("with_kernels", [True, False], ids=["kernels", "standard operators"])
def test_logits_are_those_of_the_file(mixed, with_kernels):
    if with_kernels and not kernels.available_kernels():
        pytest.skip("no C compiler when edgesink was installed, or another processor")
    _, path, bundle, _ = mixed
    reference, stream = Reference(load_model(path), SPEC.sinks, SPEC.window), load(bundle, kernels=with_kernels)
    assert ("kernels" in stream.runner) == with_kernels
    expected = np.stack([reference.step(int(token)) for token in IDS])
    difference = np.abs(np.stack([stream.step(int(token)) for token in IDS]) - expected) / expected.std()
    most = 0.01 if with_kernels else 0.2  # standard operators round activations to 8 bits before quantised matrices
    assert difference.max() < most, f"max {difference.max():.5f}, mean {difference.mean():.6f}"


def test_a_bundle_says_so_and_holds_two_bytes_a_weight(mixed):
    name, path, _, manifest = mixed
    assert manifest.weights == TEXTS[name]
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(path).tensors}
    filled = {"token_embd.weight", "output.weight"}  # to whole groups of 16 rows
    held = {key: size * 96 // 90 if key in filled else size for key, size in sizes.items()}
    held["token_embd.weight"] -= held["token_embd.weight"] - held["token_embd.weight"] // 90  # a step reads one row
    assert 0 <= manifest.step_weight_bytes - sum(held.values()) < 1024, "and the graph's own constants"


@pytest.mark.parametrize("weight", ["embedding", "head", "layers.0.q", "layers.0.k"])
def test_what_is_held_is_what_is_in_the_file(mixed, weight):
    checkpoint = GgufCheckpoint(mixed[1])
    assert np.array_equal(held_weights(checkpoint, "int4")(weight).dequantized(), checkpoint.tensor(weight))


def test_a_vocabulary_that_is_asked_for_in_4_bits_is_rounded(mixed):
    checkpoint = GgufCheckpoint(mixed[1])
    assert held_weights(checkpoint, "int4", 4)("embedding").bits == 4
    assert describe_weights(checkpoint, "int4", 4).endswith("; embedding and head 4 bit")


def test_palettes_leave_a_vocabulary_in_its_floats_and_say_so(tmp_path):
    checkpoint = GgufCheckpoint(write_gguf(tmp_path / "mixed.gguf", KINDS["float16"]))
    assert held_weights(checkpoint, "pal4", 8)("embedding").bits == 16
    assert "embedding and head 16 bit" in describe_weights(checkpoint, "pal4", 8)


def test_float32_beside_quantised_matrices_is_rounded_and_named(tmp_path):
    checkpoint = GgufCheckpoint(write_gguf(tmp_path / "mixed.gguf", {"attn_k": "F32"}))
    assert held_weights(checkpoint, "int4")("layers.0.k").bits == 8
    expected = "Q8_0 of the GGUF, bit for bit; F32 rounded to 8 bit (blk.0.attn_k.weight)"
    assert describe_weights(checkpoint, "int4") == expected


def test_floats_that_are_no_finite_numbers_are_refused(tmp_path):
    checkpoint = GgufCheckpoint(write_gguf(tmp_path / "mixed.gguf", {"attn_v": "BF16"}, largest=np.inf))
    with pytest.raises(BadCheckpoint, match=r"'blk\.0\.attn_v\.weight' .* NaN or infinity"):
        checkpoint.blocks("layers.0.v")


def test_core_ml_has_float16_of_both_or_refuses_what_is_beyond_it():
    values = np.array([[0.1, -3.5, 1e-30, 70000.0]], np.float32)
    data = quantize(values, GGMLQuantizationType.BF16)
    near, beyond = halves_of_gguf(data[:, :6], "BF16"), halves_of_gguf(data, "BF16")
    assert near.as_float16()[0, :2].tolist() == dequantize(data, GGMLQuantizationType.BF16)[0, :2].tolist()
    assert near.as_float16()[0, 2] == 0
    with pytest.raises(BadOption, match=r"magnitude 7\.01e\+04"):
        beyond.as_float16()
