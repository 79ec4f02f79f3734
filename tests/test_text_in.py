"""A bundle's tokenizer: what becomes of a checkpoint's files, and which ids a text has."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import make_toy, write_toy_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from edgesink.errors import BadBundle, BadCheckpoint, BadOption
from edgesink.export.bundle import export
from edgesink.export.checkpoint import GgufCheckpoint, open_checkpoint
from edgesink.export.checkpoint.model_tokenizer import normalised, tokenizer_of_folder
from edgesink.manifest import Manifest
from edgesink.runtime.sampling import TokenRows
from edgesink.runtime.tokenizer import Tokenizer as OurTokenizer
from edgesink.spec import StreamSpec

ROWS = 262  # the toy's tokenizer has 258 ids
END = {"content": "<|im_end|>", "special": True}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}


def library(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def folder_with(folder: Path, change=lambda tokenizer: None, **files: object) -> Path:
    """The toy's tokenizer, changed, and other files beside it, their names without `.json`."""
    write_toy_tokenizer(folder)
    tokenizer = library(folder)
    change(tokenizer)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def framed(single: str):
    def change(tokenizer: Tokenizer) -> None:
        special = [("<end>", 0), ("<begin>", 1)]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)

    return change


@pytest.mark.parametrize(
    ("change", "front"),
    [
        (lambda t: t.enable_truncation(4), []),
        (lambda t: t.enable_padding(length=16, pad_id=5, pad_token="[PAD]"), []),
        (framed("$A <end>"), []),
        (framed("<begin> $A <end>"), [1]),
        (framed("<begin> $A"), [1]),
        (framed("<begin> <begin> $A"), [1]),  # once
    ],
)
def test_what_a_file_does_to_texts_for_training_is_taken_out(tmp_path, change, front):
    text = "a text that is longer than four"
    ids = [*front, *library(folder_with(tmp_path)).encode(text).ids]
    folder_with(tmp_path, change)
    assert OurTokenizer.of_bundle(tmp_path).encode(text, special=True) == ids, "an older bundle, as it is"
    made = tokenizer_of_folder(tmp_path, ROWS)
    assert made.inner.encode(text).ids == ids
    assert (made.inner.truncation, made.inner.padding) == (None, None)
    assert made.bos_id == (front[0] if front else None)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": FAST | {"added_tokens_decoder": {"258": END}}},
        {"added_tokens": {"<|im_end|>": 258}},
        {"tokenizer_config": FAST | {"eos_token": "<|im_end|>"}},
        {"special_tokens_map": {"eos_token": END}},
        {"tokenizer_config": FAST | {"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}},
        {"tokenizer_config": FAST | {"added_tokens_decoder": {"259": END, "258": {"content": "<x>"}}}},
        {"tokenizer_config": {"tokenizer_class": "NobodyKnowsTokenizer", "eos_token": "<|im_end|>"}},
        {"tokenizer_config": FAST | {"add_bos_token": True, "bos_token": "<begin>"}},
    ],
)
def test_ids_are_those_of_transformers_whichever_file_names_a_token(tmp_path, files):
    folder_with(tmp_path, **files)
    made, theirs = tokenizer_of_folder(tmp_path, ROWS), AutoTokenizer.from_pretrained(tmp_path)
    for text in ("hi<|im_end|>\n<|im_start|>", " <x> <begin>a<end>", "", "日本 🙂"):
        assert made.inner.encode(text).ids == theirs(text)["input_ids"]
    assert made.eos_id == theirs.eos_token_id
    assert made.dropped == ()


def test_added_tokens_without_a_row_are_dropped_and_said(tmp_path):
    said = []
    toy = make_toy(tmp_path / "toy")
    folder_with(tmp_path / "toy", lambda t: t.add_special_tokens(["[PAD]"]))
    export(toy.path, tmp_path / "bundle", "onnx", StreamSpec(3, 13, 8, 5), "fp32", say=said.append)
    tokenizer = OurTokenizer.of_bundle(tmp_path / "bundle")
    assert max(tokenizer.encode("what is [PAD]?")) < 258
    assert tokenizer.decode(tokenizer.encode("what is [PAD]?")) == "what is [PAD]?"
    assert said == ["the embedding has no row for [PAD]: in a text they are like any other words"]


def test_a_tokenizer_of_another_model_is_refused_by_count(tmp_path):
    with pytest.raises(BadCheckpoint, match="has 258 ids, 58 of them beyond the embedding; expected ids from 0 to 199"):
        tokenizer_of_folder(folder_with(tmp_path), 200)


def test_ids_that_would_fill_the_memory_are_refused(tmp_path):
    for files in (
        {"tokenizer_config": {"added_tokens_decoder": {"4000000000": END}}},
        {"added_tokens": {"<x>": -1}},
        {"added_tokens": {"<x>": "1"}},
    ):
        (tmp_path / "added_tokens.json").unlink(missing_ok=True)
        with pytest.raises(BadCheckpoint, match="added token of id"):
            tokenizer_of_folder(folder_with(tmp_path, **files), ROWS)


def test_a_vocabulary_without_a_tokenizer_file_is_converted(tmp_path):
    vocabulary = library(folder_with(tmp_path)).get_vocab()
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    names = {"eos_token": "<end>", "bos_token": "<begin>", "unk_token": "<end>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"} | names))
    made = tokenizer_of_folder(tmp_path, ROWS)
    assert made.inner.encode("ab<end>").ids == [vocabulary["a"], vocabulary["b"], 0]
    assert tokenizer_of_folder(tmp_path / "nothing", ROWS) is None


# --- end ids


@pytest.mark.parametrize(
    ("config", "generation", "tokenizer", "expected"),
    [
        (0, None, {}, (0,)),
        (None, [7, 9], {}, (7, 9)),
        (0, 9, {"eos_token": "<begin>"}, (0, 1, 9)),
        (None, None, {"eos_token": {"content": "<begin>", "__type": "AddedToken"}}, (1,)),
        (None, None, {"eos_token": "<|beyond|>"}, ()),  # of a token that the embedding has no row for
        (None, None, {}, ()),
    ],
)
def test_an_end_is_what_any_file_calls_one(tmp_path, config, generation, tokenizer, expected):
    toy = make_toy(tmp_path, eos_token_id=config)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(FAST | tokenizer))
    assert open_checkpoint(toy.path).eos_ids == expected


def test_a_checkpoint_without_an_end_is_said_to_have_none(tmp_path):
    toy, said = make_toy(tmp_path / "toy", eos_token_id=None), []
    for name in ("generation_config.json", "chat_template.jinja"):  # whose turns have an end
        (toy.path / name).unlink(missing_ok=True)
    made = export(toy.path, tmp_path / "bundle", "onnx", StreamSpec(3, 13, 8, 5), "fp32", say=said.append)
    assert made.eos_ids == ()
    assert said == ["this checkpoint names no end token: an answer goes on until it is stopped"]


@pytest.mark.parametrize(("window", "capacities"), [(29, []), (30, ["33"])])
def test_a_window_beyond_what_the_model_was_trained_with_is_said(tmp_path, window, capacities):
    toy, said = make_toy(tmp_path / "toy", max_position_embeddings=32), []
    export(toy.path, tmp_path / "bundle", "onnx", StreamSpec(3, window, 8, 5), "fp32", say=said.append)
    assert [line.split()[3] for line in said if "trained with 32:" in line] == capacities


@pytest.mark.parametrize("file", ["config", "generation_config"])
@pytest.mark.parametrize("absurd", [-1, 4294967295, 258, "2", 2.5, True, [0, None], {"id": 1}, [[0]]])
def test_an_absurd_end_is_refused_with_its_file(tmp_path, file, absurd):
    toy = make_toy(tmp_path)
    path = tmp_path / f"{file}.json"
    values = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(values | {"eos_token_id": absurd}))
    with pytest.raises(BadCheckpoint, match=rf"{file}.json has eos_token_id"):
        _ = open_checkpoint(toy.path).eos_ids


# --- GGUF


def gguf_file(path: Path, tokens: list[str], types: list[int] | None, **fields: object) -> GgufCheckpoint:
    """One layer of nothing, and a byte-level tokenizer of 256 bytes, `ab` and these tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer, size = gguf.GGUFWriter(path, "llama"), 32
    for add, value in (
        (writer.add_block_count, 1), (writer.add_embedding_length, size), (writer.add_head_count, 2),
        (writer.add_feed_forward_length, size), (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_context_length, 64),
        (writer.add_token_list, [*letters, "ab", *tokens]), (writer.add_token_merges, ["a b"]),
    ):  # fmt: skip
        add(value)
    if types is not None:
        writer.add_token_types([1] * 257 + types)
    for name, value in ({"model": "gpt2", "pre": "gpt-2"} | fields).items():
        {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32}[type(value)](
            f"tokenizer.ggml.{name}", value
        )
    layer = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    for name in (
        "token_embd",
        "output_norm",
        "blk.0.attn_norm",
        "blk.0.ffn_norm",
        *(f"blk.0.{part}" for part in layer),
    ):
        rows = 257 + len(tokens) if name == "token_embd" else size
        shape = (size,) if name.endswith("norm") else (rows, size)
        writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufCheckpoint(path)


@pytest.mark.parametrize(
    ("model", "fields", "bos"),
    [
        ("gpt-2", {"bos_token_id": 257}, None),
        ("gpt-2", {"bos_token_id": 257, "add_bos_token": True}, 257),
        ("llama-bpe", {"bos_token_id": 257}, 257),  # without the key, as llama.cpp
        ("llama-bpe", {"bos_token_id": 257, "add_bos_token": False}, None),
        ("llama-bpe", {"bos_token_id": 257, "add_eos_token": True}, 257),
        ("llama-bpe", {}, None),
        ("qwen2", {"bos_token_id": 257}, None),
    ],
)
def test_a_gguf_text_begins_once_or_never_as_in_llama_cpp(tmp_path, model, fields, bos):
    checkpoint = gguf_file(tmp_path / "m.gguf", ["<s>", "<|im_end|>"], [3, 3], pre=model, eos_token_id=258, **fields)
    assert checkpoint.bos_id == bos
    checkpoint.write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = OurTokenizer.of_bundle(tmp_path)
    assert tokenizer.encode("ab", special=True) == [*([] if bos is None else [bos]), 256]
    assert tokenizer.encode("<s>ab") == [257, 256]


@pytest.mark.parametrize("types", [[3, 3], [3, 4], [3, 1], None])
@pytest.mark.parametrize("end", ["<|im_end|>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "<end_of_utterance>"])
def test_a_gguf_end_of_turn_is_one_token_and_an_end_whatever_its_type(tmp_path, types, end):
    checkpoint = gguf_file(tmp_path / "m.gguf", ["<|im_start|>", end], types)
    assert checkpoint.eos_ids == (258,)
    checkpoint.write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = OurTokenizer.of_bundle(tmp_path)
    assert tokenizer.encode(f"<|im_start|>ab{end}") == [257, 256, 258]
    assert tokenizer.decode([256, 258]) == "ab"


def test_a_gguf_tag_of_a_page_is_no_end(tmp_path):
    assert gguf_file(tmp_path / "a.gguf", ["<s>", "</s>"], [1, 1]).eos_ids == ()
    assert gguf_file(tmp_path / "b.gguf", ["<s>", "</s>"], [3, 3]).eos_ids == (258,)


@pytest.mark.parametrize("absurd", [2**32 - 1, 259])
@pytest.mark.parametrize("name", ["bos", "eos", "eot", "eom"])
def test_an_absurd_id_in_a_gguf_is_refused_by_its_field(tmp_path, name, absurd):
    with pytest.raises(BadCheckpoint, match=f"{name}_token_id = {absurd}"):
        gguf_file(tmp_path / "m.gguf", ["<s>", "</s>"], [3, 3], **{f"{name}_token_id": absurd})


# --- odd text


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> OurTokenizer:
    folder = tmp_path_factory.mktemp("toy")
    write_toy_tokenizer(folder)
    return OurTokenizer.of_bundle(folder)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udce9", "\ufffd"),  # a byte that was no UTF-8, as Python reads it from a terminal
        ("\ud83d\ude42", "🙂"),  # a pair is a character
        ("\ude42\ud83d", "\ufffd\ufffd"),
    ],
)
def test_a_surrogate_that_stands_alone_becomes_the_replacement_character(tokenizer, text, meant):
    assert tokenizer.decode(tokenizer.encode(text)) == meant


@given(text=st.text(st.characters(codec=None, categories=("Cc", "Cs", "Cf", "Co", "Cn", "L")), max_size=20))
def test_any_text_has_ids_and_control_characters_are_kept(tokenizer, text):
    meant = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(tokenizer.encode(text)) == meant


def test_a_text_that_the_tokenizer_has_no_ids_for_is_one_error():
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="[UNK]"))
    with pytest.raises(BadOption, match="cannot encode this text"):
        OurTokenizer(words).encode("b")


def test_a_tokenizer_without_tokens_is_refused(tmp_path):
    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(BadBundle, match="no tokens"):
        OurTokenizer.of_bundle(tmp_path).rows(9)


def test_rows_are_those_of_the_tokens_with_and_without_holes(tmp_path):
    write_toy_tokenizer(tmp_path)
    tokenizer = OurTokenizer.of_bundle(tmp_path)
    assert [tokenizer.rows(vocab) for vocab in (258, 300, 100)] == [TokenRows(258), TokenRows(258), TokenRows(100)]
    holes = Tokenizer(models.BPE(vocab={"a": 0, "b": 3, "c": 9}, merges=[]))
    assert OurTokenizer(holes).rows(6) == TokenRows(4, holes=(1, 2))
    assert OurTokenizer(holes).rows(10) == TokenRows(10, holes=(1, 2, 4, 5, 6, 7, 8))


def test_a_bundle_says_what_it_really_puts_first(tmp_path):
    toy = make_toy(tmp_path / "toy")
    folder_with(toy.path, framed("<begin> $A <end>"))
    export(toy.path, tmp_path / "bundle", "onnx", StreamSpec(3, 13, 8, 5), "fp32")
    ids = OurTokenizer.of_bundle(tmp_path / "bundle").encode("ab", special=True)
    assert ids[0] == Manifest.read(tmp_path / "bundle").bos_id == 1
    assert ids.count(1) == 1
    assert 0 not in ids
    assert AddedToken("<begin>").content in library(tmp_path / "bundle").get_vocab()


def test_runs_of_spaces_that_a_model_merges_to_stay_its_pieces():
    """As a GGUF of Gemma has them: pieces of "▁", of which the file says that a user defined them in spaces."""
    vocabulary = {"<begin>": 0, "▁": 1, "a": 2, "▁▁": 3, "▁▁▁": 4, "<note>": 5}
    inner = Tokenizer(models.BPE(vocabulary, [("▁", "▁"), ("▁▁", "▁")]))
    inner.normalizer = normalizers.Replace(" ", "▁")
    entry = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    added = {id_: {"content": content, **entry} for id_, content in ((3, "  "), (4, "   "), (5, "<note>"))}
    made = normalised(inner, added, [], None, 6, "a file")
    assert made.inner.encode("a  a   a a<note>").ids == [2, 3, 2, 4, 2, 1, 2, 5]
