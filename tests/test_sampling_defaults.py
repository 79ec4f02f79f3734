"""The sampling that a model's makers recommend: where it is read from, what of it is followed, and a friendly name."""

import json
from pathlib import Path

import pytest

from edgesink.errors import BadCheckpoint, BadOption
from edgesink.export.checkpoint.friendly_name import folder_name, gguf_name
from edgesink.export.checkpoint.known_sampling import known_sampling
from edgesink.export.checkpoint.sampling import folder_sampling, gguf_sampling
from edgesink.manifest import Manifest
from edgesink.runtime.sampling import SamplingSpec
from edgesink.sampling_defaults import CHAT_SAMPLING
from edgesink.spec import StreamSpec

QWEN = {
    "bos_token_id": 151643, "pad_token_id": 151643, "do_sample": True, "eos_token_id": [151645, 151643],
    "repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "transformers_version": "4.37.0",
}  # fmt: skip
GEMMA = {"cache_implementation": "hybrid", "do_sample": True, "eos_token_id": [1, 106], "top_k": 64, "top_p": 0.95}


def read(folder: Path, fields: dict):
    (folder / "generation_config.json").write_text(json.dumps(fields))
    return folder_sampling(folder)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (QWEN, "temperature 0.7, top-k 20, top-p 0.8, repetition penalty 1.1"),
        (GEMMA, "temperature 1, top-k 64, top-p 0.95"),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, "temperature 0.6, top-k 50, top-p 0.9"),
        ({"temperature": 0.6, "top_k": -1, "min_p": 0.1}, "temperature 0.6, min-p 0.1"),
        ({"do_sample": False, "temperature": 0.6}, "temperature 0 (always the most likely token)"),
        ({"do_sample": True, "temperature": None, "top_k": 5}, "temperature 1, top-k 5"),
    ],
)
def test_generation_config_is_read_as_its_writers_mean_it(tmp_path, fields, words):
    found = read(tmp_path, fields)
    assert (found.words, found.source) == (words, "generation_config.json")


def test_a_file_that_does_not_speak_of_sampling_recommends_nothing(tmp_path):
    assert folder_sampling(tmp_path) is None
    assert read(tmp_path, {"_from_model_config": True, "eos_token_id": 2, "max_length": 20}) is None


def test_a_field_that_is_not_followed_is_named(tmp_path):
    fields = GEMMA | {"typical_p": 0.9, "num_beams": 1, "no_repeat_ngram_size": 3, "of_the_future": 7}
    expected = "generation_config.json, without typical_p 0.9, no_repeat_ngram_size 3, of_the_future (unknown)"
    assert read(tmp_path, fields).source == expected


def test_a_field_that_is_not_followed_is_named_where_the_table_recommends_the_rest(tmp_path):
    known = known_sampling("SmolLM2-135M")
    (tmp_path / "generation_config.json").write_text(json.dumps({"num_beams": 5}))
    expected = "edgesink's table of known models, without "
    assert folder_sampling(tmp_path, known).source == f"{expected}num_beams 5"
    assert gguf_sampling({"general.sampling.mirostat": 2}, "x", known).source == f"{expected}mirostat 2"
    assert gguf_sampling({"general.name": "x"}, "x", known) == known


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", "hot"), ("temperature", -1), ("top_k", 1.5), ("top_p", 0), ("top_p", True), ("min_p", 1),
        ("do_sample", "yes"), ("repetition_penalty", 0),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(tmp_path, field, value):
    with pytest.raises(BadCheckpoint, match=rf"generation_config.json has {field}"):
        read(tmp_path, QWEN | {field: value})


def test_a_gguf_recommends_as_llama_cpp_reads_it():
    header = {"general.name": "x", "general.sampling.temp": 0.30000001192092896, "general.sampling.top_k": 40}
    assert gguf_sampling(header, "x.gguf").words == "temperature 0.3, top-k 40"
    assert gguf_sampling({"general.name": "x"}, "x.gguf") is None
    mirostat = header | {"general.sampling.mirostat": 2, "general.sampling.mirostat_tau": 5.0}
    assert gguf_sampling(mirostat, "x").source == "general.sampling.* of the GGUF, without mirostat 2, mirostat_tau 5.0"
    off = header | {"general.sampling.mirostat": 0, "general.sampling.mirostat_tau": 5.0}
    assert gguf_sampling(off, "x").source == "general.sampling.* of the GGUF"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SmolLM2-135M-Instruct", "temperature 0.2, top-p 0.9"),
        ("Qwen2.5-Coder-0.5B-Instruct", "temperature 0.7, top-k 20, top-p 0.8, repetition penalty 1.1"),
        ("qwen2.5-7b-instruct", "temperature 0.7, top-k 20, top-p 0.8, repetition penalty 1.05"),
        ("gemma-3-270m-it", "temperature 1, top-k 64, top-p 0.95"),
        ("Llama-3.2-1B-Instruct", "temperature 0.6, top-p 0.9"),
        ("Meta-Llama-3.1-8B-Instruct", "temperature 0.6, top-p 0.9"),
        ("Qwen3-4B", "temperature 0.6, top-k 20, top-p 0.95"),
        ("Qwen3-4B-Instruct-2507", None),
        ("Qwen3-4B-Base", None),
        ("Mistral-7B-Instruct-v0.3", None),
        ("my-smollm2-135m", None),
    ],
)
def test_a_known_model_is_known_by_its_name(name, words):
    found = known_sampling(name)
    assert (found and found.words) == words


@pytest.mark.parametrize(
    ("file", "header", "name"),
    [
        (
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            {"basename": "smollm2", "size_label": "135M", "finetune": "8k-lc100k-mix1-ep2"},
            "SmolLM2-135M-Instruct",
        ),
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", {"basename": "qwen2.5"}, "qwen2.5-0.5b-instruct"),
        ("qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf", {"basename": "qwen2.5"}, "qwen2.5-7b-instruct"),
        (
            "sha256-00ff",
            {"basename": "Qwen2.5-Coder", "size_label": "0.5B", "finetune": "Instruct-AWQ", "name": "Q AWQ"},
            "Qwen2.5-Coder-0.5B-Instruct",
        ),
        ("sha256-00ff", {"name": "Gemma 3 270m"}, "Gemma 3 270m"),
        ("mine.gguf", {}, "mine"),
    ],
)
def test_a_gguf_has_a_friendly_name(file, header, name):
    assert gguf_name({f"general.{field}": value for field, value in header.items()}, Path(file)) == name


def test_a_folder_of_the_hubs_cache_is_called_as_on_the_hub(tmp_path):
    folder = tmp_path / "models--Qwen--Qwen2.5-0.5B-Instruct" / "snapshots" / "7ae557604adf67be50417f59c2c2f167def9a775"
    folder.mkdir(parents=True)
    assert folder_name("/fsx/runs/8k-mix1-ep2", folder) == "Qwen2.5-0.5B-Instruct"
    assert folder_name("owner/name-of-it", tmp_path) == "name-of-it"
    assert folder_name("/fsx/runs/8k-mix1-ep2", tmp_path) == tmp_path.name


def test_what_is_chosen_overrules_the_model_and_the_rest_stays_its_own(tmp_path):
    spec = SamplingSpec.of_model(read(tmp_path, QWEN), temperature=0.1, top_k=None, seed=3)
    assert spec == SamplingSpec(0.1, 20, 0.8, 0.0, 1.1, seed=3)
    assert SamplingSpec.of_model(None) == SamplingSpec()
    with pytest.raises(BadOption, match="top_p = 2"):
        SamplingSpec.of_model(CHAT_SAMPLING, top_p=2)


def test_a_bundle_carries_the_recommendation_and_chat_and_generate_follow_it(toy_maker, tmp_path, command):
    toy = toy_maker(tmp_path / "toy")
    (toy.path / "generation_config.json").write_text(json.dumps({"do_sample": False, "eos_token_id": 0}))
    bundle = toy.bundle(tmp_path / "bundle", StreamSpec(3, 61, 32, 8))
    assert Manifest.read(bundle).sampling.words == "temperature 0 (always the most likely token)"
    _, out, _ = command("inspect", bundle)
    assert "sampling  temperature 0 (always the most likely token) (generation_config.json)" in out
    for words in (["generate", bundle, "hello", "--max-new-tokens", 12], ["chat", bundle, "-m", "hello"]):
        assert command(*words, "--max-new-tokens", 12, "--seed", 1)[1] == command(*words, "--max-new-tokens", 12)[1]
    hot = command("generate", bundle, "hello", "--max-new-tokens", 12, "--temperature", 5, "--seed", 1)[1]
    assert hot != command("generate", bundle, "hello", "--max-new-tokens", 12)[1]


def test_a_bundle_of_an_older_edgesink_has_no_recommendation_and_is_read(toy, tmp_path):
    bundle = toy.bundle(tmp_path / "bundle", StreamSpec(3, 61, 32, 8))
    data = json.loads((bundle / "manifest.json").read_text())
    assert data.pop("sampling", None) is None
    assert Manifest.from_json(json.dumps(data)).sampling is None
