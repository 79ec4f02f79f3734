"""Real weights of other families: what random ones hide. Minutes each; run with `-m slow`."""

import math

import numpy as np
import pytest
import real_models

import edgesink
from edgesink.evaluate.scoring import Scorer
from edgesink.export.bundle import export
from edgesink.runtime.chat import Chat
from edgesink.runtime.sampling import SamplingSpec
from edgesink.runtime.tokenizer import Tokenizer
from edgesink.spec import StreamSpec
from edgesink.verify.bundle import verify_bundle

pytestmark = pytest.mark.slow

QWEN, QWEN_LARGE, GEMMA = "qwen-0.5b", "qwen-1.5b", "gemma3-270m"
STEADY = 1.15  # of the perplexity of one half of a text over the other's: it does not drift

QUESTIONS = (
    "What does `len` do in Python?",
    "Write a one-line comment.",
    "Name a sorting algorithm.",
    "What is 2 + 3?",
)
"""Asked in turn, again and again."""


@pytest.fixture(scope="module")
def checkpoint():
    return real_models.fetch


@pytest.mark.parametrize(
    ("name", "stream", "tokens"),
    [
        (QWEN, StreamSpec.fitted(window=60, chunk=16), 3 * 79 + 5),
        (GEMMA, StreamSpec.fitted(window=60, chunk=16), 3 * 79 + 5),
        (GEMMA, StreamSpec.fitted(window=700, chunk=64), 3 * 767 + 5),  # its local layers see 512 tokens: two rings
    ],
    ids=["qwen 4+60", "gemma 4+60", "gemma 4+700"],
)
def test_fp32_is_the_oracle_over_three_laps(checkpoint, tmp_path, name, stream, tokens):
    manifest = export(checkpoint(name), tmp_path / "bundle", "onnx", stream, "fp32")
    assert [view.capacity for view in manifest.views] == ([704, 512] if stream.capacity == 704 else [64])
    report, *_ = verify_bundle(tmp_path / "bundle", checkpoint(name), tokens=tokens)
    assert report.failures == []
    assert report.laps >= 3


@pytest.mark.parametrize("name", [QWEN, GEMMA])
def test_core_ml_by_the_evaluator_is_the_oracle_past_the_wrap(checkpoint, tmp_path, name):
    stream = StreamSpec.fitted(window=28, chunk=8, target="coreml")
    export(checkpoint(name), tmp_path / "bundle", "coreml", stream, "fp16")
    report, *_ = verify_bundle(tmp_path / "bundle", checkpoint(name), tokens=2 * stream.rows)
    assert report.failures == []


@pytest.mark.parametrize("name", [QWEN, GEMMA])
def test_perplexity_does_not_drift_over_twenty_thousand_tokens(checkpoint, tmp_path, name, prose):
    export(checkpoint(name), tmp_path / "bundle", "onnx", StreamSpec(), "int4")
    ids = np.array(Tokenizer.of_bundle(tmp_path / "bundle").encode(prose, special=True)[:21025])
    scorer = Scorer(tmp_path / "bundle")
    nats = scorer.feed(ids[:-1], ids[1:])[scorer.manifest.stream.capacity :]
    first, second = (math.exp(float(half.mean())) for half in np.array_split(nats, 2))
    assert len(nats) == 20000
    assert max(first, second) / min(first, second) < STEADY, f"{first:.2f}, then {second:.2f}"


def test_qwen_chats_for_fifty_turns(checkpoint, tmp_path):
    export(checkpoint(QWEN), tmp_path / "bundle", "onnx", StreamSpec.fitted(window=508), "int4")
    stream = edgesink.load(tmp_path / "bundle")
    chat = Chat(stream, "You answer briefly.", SamplingSpec(), pin="system")
    answers = ["".join(t.text for t in chat.answer(QUESTIONS[n % 4], max_new_tokens=60)) for n in range(50)]
    assert stream.evicted > 0
    for turn, expected in ((0, "number of"), (3, "5"), (44, "number of"), (47, "5")):
        assert expected in answers[turn], answers[turn]
    assert all(answer.strip() and "<|im_" not in answer for answer in answers)


def test_the_larger_one_exports_verifies_and_chats(checkpoint, tmp_path):
    export(checkpoint(QWEN_LARGE), tmp_path / "bundle", "onnx", StreamSpec.fitted(window=60), "int4")
    reports = verify_bundle(tmp_path / "bundle", checkpoint(QWEN_LARGE), tokens=150)
    assert [failure for report in reports for failure in report.failures] == []
    chat = Chat(edgesink.load(tmp_path / "bundle"))
    assert "Paris" in "".join(token.text for token in chat.answer("What is the capital of France?", 40))


@pytest.fixture(scope="module")
def prose() -> str:
    """Half a million characters of English that every Python carries: its language reference."""
    from pydoc_data.topics import topics

    return "\n\n".join(text for _, text in sorted(topics.items()))
