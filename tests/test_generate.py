"""The decode loop: when it stops, what it shows, and what it leaves in the stream."""

import numpy as np
import pytest

from edgesink import load
from edgesink.errors import BadOption
from edgesink.runtime.generate import StopFilter
from edgesink.runtime.sampling import SamplingSpec
from edgesink.runtime.tokenizer import REPLACEMENT, Detokenizer, Tokenizer
from edgesink.spec import StreamSpec

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


def test_the_repetition_penalty_sees_the_prompt(bundle):
    stream = load(bundle)
    plain = next(iter(stream.generate([5, 6, 7]))).id
    stream.reset()
    penalised = next(iter(stream.generate([5, 6, 7, plain, 7], repetition_penalty=1e6))).id
    assert penalised not in (5, 6, 7, plain)


def test_sampling_options_reach_the_sampler(bundle):
    with pytest.raises(BadOption):
        load(bundle).generate([5], temperature=-1)
    assert SamplingSpec(top_k=3).top_k == 3
