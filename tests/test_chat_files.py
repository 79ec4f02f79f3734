"""Where a checkpoint keeps its chat templates and special tokens, and what an export makes of them."""

import json
import re

import numpy as np
import pytest

from edgesink import load
from edgesink.errors import BadBundle, BadCheckpoint
from edgesink.export.checkpoint import open_checkpoint
from edgesink.export.checkpoint.chat_files import (
    folder_special_tokens,
    folder_templates,
    gguf_special_tokens,
    gguf_templates,
)
from edgesink.export.tokenizer_files import write_tokenizer
from edgesink.manifest import Manifest
from edgesink.runtime.chat import Chat
from edgesink.spec import StreamSpec
from edgesink.turns import Turns

NAMED = [{"name": "tool_use", "template": "tools"}, {"name": "rag", "template": "documents"}]
TURNS = "{% for m in messages %}<begin>{{ m.role }} {{ m.content }}<end>{% endfor %}"


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {}),
        ({"tokenizer_config.json": {"chat_template": "a"}}, {"default": "a"}),
        ({"tokenizer_config.json": {"chat_template": NAMED}}, {"tool_use": "tools", "rag": "documents"}),
        ({"chat_template.json": {"chat_template": "a"}}, {"default": "a"}),
        (
            {"chat_template.json": {"chat_template": "a"}, "tokenizer_config.json": {"chat_template": "b"}},
            {"default": "b"},
        ),
        ({"chat_template.jinja": "c", "tokenizer_config.json": {"chat_template": "b"}}, {"default": "c"}),
        ({"chat_template.jinja": "c", "additional_chat_templates__rag.jinja": "d"}, {"default": "c", "rag": "d"}),
    ],
)  # fmt: skip
def test_every_place_of_a_folder_is_read(files, expected, tmp_path):
    assert folder_templates(write(tmp_path / "m", **files)) == expected


@pytest.mark.parametrize("template", [7, ["a"], [{"name": "x"}], [{"name": 1, "template": "a"}], {"a": "b"}])
def test_a_chat_template_that_is_no_text_is_refused_by_name(template, tmp_path):
    folder = write(tmp_path / "m", **{"tokenizer_config.json": {"chat_template": template}})
    with pytest.raises(BadCheckpoint, match="chat_template"):
        folder_templates(folder)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.json", "chat_template.jinja"])
def test_a_file_that_is_no_text_is_refused_by_name(name, tmp_path):
    (tmp_path / name).write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(BadCheckpoint, match=name):
        folder_templates(tmp_path)


def test_special_tokens_are_those_that_the_tokenizer_declares(tmp_path):
    declared = {
        "bos_token": {"content": "<s>", "lstrip": False},
        "eos_token": "<|im_end|>",
        "unk_token": None,
        "x": "y",
    }
    folder = write(
        tmp_path / "m", **{"tokenizer_config.json": declared, "special_tokens_map.json": {"unk_token": "<unk>"}}
    )
    assert folder_special_tokens(folder) == {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}


def test_a_gguf_has_templates_by_name_and_tokens_by_id():
    fields = {
        "tokenizer.chat_template": "a", "tokenizer.chat_template.rag": "b", "tokenizer.ggml.tokens": ["<unk>", "<s>"],
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2**32 - 1,
    }  # fmt: skip
    assert gguf_templates(fields, "x.gguf") == {"default": "a", "rag": "b"}
    assert gguf_special_tokens(fields) == {"bos_token": "<s>", "unk_token": "<unk>"}
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.chat_template"):
        gguf_templates({"tokenizer.chat_template": 7}, "x.gguf")


@pytest.fixture
def changed(toy, tmp_path):
    """changed(files) -> the toy's checkpoint folder with other chat files."""

    def change(**files):
        folder = tmp_path / "toy"
        folder.mkdir()
        for file in toy.path.iterdir():
            if file.name != "chat_template.jinja":
                (folder / file.name).symlink_to(file)
        return write(folder, **files)

    return change


def turns_of(folder, tmp_path):
    return write_tokenizer(open_checkpoint(folder), tmp_path)


def test_the_only_template_is_taken_whatever_its_name(changed, tmp_path):
    folder = changed(**{"tokenizer_config.json": {"chat_template": [{"name": "tool_use", "template": TURNS}]}})
    assert isinstance(turns_of(folder, tmp_path), Turns)
    assert (tmp_path / "chat_template.jinja").read_text(encoding="utf-8") == TURNS


def test_several_templates_without_a_default_are_named(changed, tmp_path):
    folder = changed(**{"tokenizer_config.json": {"chat_template": NAMED}})
    assert turns_of(folder, tmp_path) == "of its chat templates (rag, tool_use) none is named 'default'"


def test_the_template_gets_the_tokens_that_the_tokenizer_declares(changed, tmp_path):
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    end = {"__type": "AddedToken", "content": "<end>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<begin>", "eos_token": end}
    turns = turns_of(changed(**{"chat_template.jinja": template, "tokenizer_config.json": config}), tmp_path)
    kinds = [(piece.kind, piece.id) for piece in turns.without_system.first]
    assert kinds == [("token", 1), ("user", None), ("token", 0)]


def test_a_model_without_a_template_is_not_for_conversations(changed, tmp_path):
    assert turns_of(changed(), tmp_path) == "it has no chat template"


def test_a_bundle_without_turns_generates_and_says_why_it_does_not_chat(toy, changed, command, tmp_path):
    folder = changed(**{"chat_template.jinja": "{{ raise_exception('roles\x1b[0m\nmust alternate') }}"})
    out = type(toy)(folder, toy.model).bundle(tmp_path / "out", StreamSpec())
    manifest, reason = Manifest.read(out), "its chat template says: roles?[0m"
    assert (manifest.turns, manifest.no_turns) == (None, reason)
    with pytest.raises(BadBundle, match=re.escape(reason)):
        Chat(load(out))
    assert np.isfinite(load(out).prefill([3, 4])).all()
    code, _, words = command("chat", out, "-m", "hi")
    assert (code, words.count("\n")) == (1, 1)
    assert reason in words
    assert f"not possible: {reason}" in command("inspect", out)[1]


def test_an_export_says_what_a_stream_does_otherwise_than_the_template(changed, command, tmp_path):
    template = TURNS.replace("{{ m.role }}", "{{ raise_exception('no') if m.role == 'system' }}")
    words = command("export", changed(**{"chat_template.jinja": template}), "--out", tmp_path / "out")[2]
    assert "chat: no conversation with a system prompt: its chat template says: no" in words
