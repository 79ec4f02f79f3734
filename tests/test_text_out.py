"""Text as it streams is the text of all ids at once: every kind of tokenizer, every script, any ids at all."""

import functools
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizer_kinds import KINDS, SCRIPTS, as_file
from tokenizers import Tokenizer as Library
from tokenizers import decoders

from edgesink.errors import BadBundle
from edgesink.runtime.generate import StopFilter
from edgesink.runtime.tokenizer import Detokenizer, Tokenizer
from edgesink.text_decoder import REPLACEMENT, TextDecoder

BYTES_FALL_BACK = {"mistral", "mistral_v3", "gemma", "bytes_only", "odd_sequence"}


@functools.cache
def library(kind: str) -> Library:
    return KINDS[kind]()


@functools.cache
def ours(kind: str) -> Tokenizer:
    return Tokenizer(library(kind))


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*map(detokenizer.push, ids), detokenizer.finish()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_text_streams_as_it_is_decoded_whole(kind, script):
    ids = ours(kind).encode(SCRIPTS[script])
    shown = pieces(ours(kind), ids)
    assert "".join(shown) == library(kind).decode(ids) == ours(kind).decode(ids)
    if REPLACEMENT not in SCRIPTS[script]:
        assert not any(REPLACEMENT in piece for piece in shown)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"unigram", "word_piece", "word_ends"}])
@given(text=st.text(max_size=30), ids=st.lists(st.integers(0, 2000), max_size=30))
@example(text="\x00\x7f\u202e", ids=[])
def test_any_text_and_any_ids_stream_as_they_are_decoded_whole(kind, text, ids):
    for given_ids in (ours(kind).encode(text), ids):
        shown, whole = "".join(pieces(ours(kind), given_ids)), library(kind).decode(given_ids)
        assert ours(kind).decode(given_ids) == shown
        if kind in BYTES_FALL_BACK and REPLACEMENT in whole:
            assert REPLACEMENT in shown, "broken bytes are shown, though fewer of them than the library shows"
        else:
            assert shown == whole


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["<0xE3>", "<0x81>", "<0x82>"], ["", "", "あ", ""]),
        (["<0xE3>", "<0x81>", "a"], ["", "", "\ufffd\ufffda", ""]),  # a broken character: as many as bytes
        (["<0xE3>", "<0x41>"], ["", "\ufffdA", ""]),
        (["<0xE3>", "<0xe3>", "<0x81>", "<0x82>"], ["", "\ufffd", "", "あ", ""]),  # the one after it is whole
        (["<0xE3>", "<0x81>"], ["", "", "\ufffd\ufffd"]),
        (["<0xED>", "<0xA0>", "<0x80>"], ["", "\ufffd\ufffd", "\ufffd", ""]),  # a surrogate
        (["<0xZZ>", "<0x4>", "<0x411>"], ["<0xZZ>", "<0x4>", "<0x411>", ""]),
    ],
)
def test_bytes_are_shown_as_soon_as_they_are_a_character(tokens, expected):
    decoder = TextDecoder({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]})
    assert [*map(decoder.push, tokens), decoder.finish()] == expected


@pytest.mark.parametrize("kind", ["smollm2", "bytes_only", "mistral"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_stop_string_is_found_in_every_script(kind, script):
    text = SCRIPTS[script]
    middle = text[len(text) // 2 : len(text) // 2 + 3]
    gate = StopFilter(Detokenizer(ours(kind)), [middle] if middle else [])
    shown = ""
    for token_id in ours(kind).encode(text):
        shown += gate.push(token_id)
        if gate.stopped:
            break
    whole = ours(kind).decode(ours(kind).encode(text))
    assert shown + gate.finish() == (whole.partition(middle)[0] if middle else whole)


def test_a_token_costs_the_same_memory_wherever_it_stands():
    tokenizer = ours("bytes_only")
    detokenizer, ids = Detokenizer(tokenizer), tokenizer.encode("日本語" * 50)

    def grown(rounds: int) -> int:
        tracemalloc.start()
        for _ in range(rounds):
            for token_id in ids:
                detokenizer.push(token_id)
        return tracemalloc.get_traced_memory()[0]

    first, later = grown(1), grown(40)
    tracemalloc.stop()
    assert later < first + 2000


@pytest.mark.parametrize("decoder", [decoders.CTC(), decoders.Sequence([decoders.Fuse(), decoders.WordPiece()])])
def test_a_decoder_that_needs_the_whole_text_is_refused_by_name(decoder, tmp_path: Path):
    inner = Library(library("gpt2").model)
    inner.decoder = decoder
    inner.save(str(tmp_path / "tokenizer.json"))
    kind = "CTC" if "CTC" in repr(decoder) else "WordPiece"
    with pytest.raises(BadBundle, match=f"decoder {kind}"):
        Tokenizer.of_bundle(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_same_as_the_library(kind, tmp_path: Path):
    path = as_file(kind, tmp_path)
    tokenizer = Tokenizer.of_bundle(tmp_path)
    for text in SCRIPTS.values():
        assert tokenizer.encode(text) == Library.from_file(str(path)).encode(text, add_special_tokens=False).ids
    assert json.loads(path.read_text(encoding="utf-8"))["model"]
