"""The decode loop: when it stops, what it shows, and what it leaves in the stream."""

import dataclasses

import numpy as np
import pytest

from edgesink import load
from edgesink.errors import BadOption
from edgesink.runtime.generate import StopFilter
from edgesink.runtime.sampling import SamplingSpec, TokenRows
from edgesink.runtime.tokenizer import Detokenizer, Tokenizer
from edgesink.spec import StreamSpec
from edgesink.text_decoder import REPLACEMENT

SPEC = StreamSpec(3, 13, 8, 5)


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("generate") / "bundle", SPEC)


@pytest.fixture
def tokenizer(bundle):
    return Tokenizer.of_bundle(bundle)


def test_greedy_is_the_argmax_of_each_step(bundle):
    stream = load(bundle)
    got = [token.id for token in stream.generate([5, 6, 7], max_new_tokens=30)]
    stream.reset()
    logits, expected = stream.prefill([5, 6, 7]), []
    for _ in range(30):
        expected.append(int(logits.argmax()))
        if expected[-1] == 0:
            break
        logits = stream.step(expected[-1])
    assert got == expected


def test_a_seed_repeats_an_answer(bundle):
    runs = []
    for _ in range(2):
        stream = load(bundle)
        runs.append([t.id for t in stream.generate([5], max_new_tokens=20, temperature=1.0, seed=3)])
    assert runs[0] == runs[1]


def test_an_end_id_is_the_last_token_and_is_not_fed(bundle, monkeypatch):
    stream = load(bundle)
    logits = np.zeros(258, np.float32)
    logits[0] = 1  # the end id
    monkeypatch.setattr(stream._backend, "feed", lambda ids, position, sinks: None)
    monkeypatch.setattr(stream._backend, "logits", logits)
    assert [token.id for token in stream.generate([5])] == [0]
    assert stream.position == 1


def test_no_new_tokens_are_none(bundle):
    stream = load(bundle)
    assert list(stream.generate([5, 6], max_new_tokens=0)) == []
    assert stream.position == 2
    with pytest.raises(BadOption):
        list(stream.generate([5], max_new_tokens=-1))


def test_stopping_early_leaves_the_stream_usable(bundle):
    stream = load(bundle)
    tokens = stream.generate([5, 6])
    taken = [next(tokens).id for _ in range(3)]
    tokens.close()
    assert stream.position == 2 + len(taken) - 1, "the last token seen is not in the stream"
    stream.step(taken[-1])


TEXTS = ["naïve café", "日本語", "👩\u200d👩\u200d👧 family", "a\u0301e\u0308", "\ufffd kept", "mixed 🙂 ü 中"]


@pytest.mark.parametrize("text", TEXTS)
def test_characters_are_never_cut(tokenizer, text):
    ids = tokenizer.encode(text)
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(token_id) for token_id in ids]
    assert "".join(pieces) + detokenizer.finish() == text
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in piece for piece in pieces)


def test_half_a_character_is_shown_as_such_only_at_the_end(tokenizer):
    ids = tokenizer.encode("é")[:1]
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(ids[0]) == ""
    assert detokenizer.finish() == REPLACEMENT


def test_special_tokens_have_no_text(tokenizer):
    detokenizer = Detokenizer(tokenizer)
    assert [detokenizer.push(i) for i in (1, *tokenizer.encode("a"), 0)] == ["", "a", ""]


@pytest.mark.parametrize(
    ("stop", "text", "shown", "stopped"),
    [
        (["END"], "helloENDmore", "hello", True),
        (["END"], "helloEN", "helloEN", False),
        (["END", "lo"], "helloEND", "hel", True),
        (["aab"], "aaab", "a", True),
        ([], "anything", "anything", False),
    ],
)
def test_a_stop_string_is_cut_out_wherever_it_falls_across_tokens(tokenizer, stop, text, shown, stopped):
    gate = StopFilter(Detokenizer(tokenizer), stop)
    seen = ""
    for token_id in tokenizer.encode(text):
        seen += gate.push(token_id)
        assert not any(seen.endswith(s) for s in stop)
        if gate.stopped:
            break
    else:
        seen += gate.finish()
    assert (seen, gate.stopped) == (shown, stopped)


def test_an_empty_stop_string_is_refused(tokenizer):
    with pytest.raises(BadOption):
        StopFilter(Detokenizer(tokenizer), [""])


def test_the_repetition_penalty_is_for_the_answer_and_not_for_the_prompt(bundle):
    prompt = list(range(2, 258))
    stream = load(bundle)
    plain = [t.id for t in stream.generate(prompt, 2)]
    stream.reset()
    assert next(iter(stream.generate(prompt, 1, repetition_penalty=1e6))).id == plain[0]
    stream.reset()
    answer = [t.id for t in stream.generate(prompt, 12, repetition_penalty=1e6)]
    assert len(set(answer)) == len(answer)


def always(bundle, monkeypatch, *ids):
    """A stream whose next tokens are `ids`, then the last of them again and again."""
    stream, given = load(bundle), list(ids)
    logits = np.zeros(258, np.float32)

    def feed(_ids, _position, _sinks):
        logits[:] = 0
        logits[given.pop(0) if len(given) > 1 else given[0]] = 1

    monkeypatch.setattr(stream._backend, "feed", feed)
    monkeypatch.setattr(stream._backend, "logits", logits)
    return stream


def test_an_end_token_is_not_shown_even_if_the_tokenizer_takes_it_for_text(bundle, monkeypatch):
    stream = always(bundle, monkeypatch, 70, 71, 72)
    stream.manifest = dataclasses.replace(stream.manifest, eos_ids=(72,))
    tokens = list(stream.generate([5], 9))
    assert [token.id for token in tokens] == [70, 71, 72]
    assert "".join(token.text for token in tokens) == stream.tokenizer.decode([70, 71])


def test_rows_without_a_token_are_never_made(bundle, monkeypatch):
    stream = load(bundle)
    monkeypatch.setattr(stream.tokenizer, "rows", lambda vocab: TokenRows.of([*range(100), *range(120, 200)]))
    logits = np.zeros(258, np.float32)
    logits[100:120], logits[200:], logits[150] = 9, 9, 1
    monkeypatch.setattr(stream._backend, "feed", lambda *_: None)
    monkeypatch.setattr(stream._backend, "logits", logits)
    assert [token.id for token in stream.generate([5], 3)] == [150] * 3
    drawn = {token.id for token in stream.generate([5], 200, temperature=5.0, seed=1)}
    assert len(drawn) > 50
    assert drawn <= {*range(100), *range(120, 200)}
    assert logits[110] == 9, "the stream's own logits are left as they are"


def test_what_a_stop_string_cut_off_is_not_shown_at_the_end(tokenizer):
    gate = StopFilter(Detokenizer(tokenizer), ["END"])
    assert "".join(map(gate.push, tokenizer.encode("aEND\u00e9")[:-1])) == "a"
    assert gate.finish() == ""


def test_sampling_options_reach_the_sampler(bundle):
    with pytest.raises(BadOption):
        load(bundle).generate([5], temperature=-1)
    assert SamplingSpec(top_k=3).top_k == 3
