"""The programs in examples/ run, and do what their first lines say."""

import runpy
import sys
from pathlib import Path

import pytest

from edgesink.spec import StreamSpec

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def example(smollm2_bundles, capsys, monkeypatch):
    """example(name, *words) -> what it prints with a small bundle of SmolLM2."""
    bundle = smollm2_bundles("int4", StreamSpec.fitted(window=252))

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [name, str(bundle), *map(str, words)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_is_listed_and_tested():
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    source = Path(__file__).read_text(encoding="utf-8")
    names = [path.name for path in EXAMPLES.glob("*.py")]
    assert len(names) == 5
    for name in names:
        assert f"]({name})" in listed
        assert f'example("{name}"' in source


def test_a_stream_goes_on_beyond_what_the_model_sees(example):
    last = example("stream_tokens.py").splitlines()[-1]
    fed, forgotten = int(last.split(" tokens fed, ")[0]), int(last.split(", ")[1].split(" forgotten")[0])
    assert forgotten == max(0, fed - 256)


def test_a_conversation_is_written_down_and_taken_back(example):
    printed = example("conversation.py")
    assert "Paris" in printed
    assert "Rome" in printed
    assert "taken back: What is the capital of Italy?" in printed
    assert printed.splitlines()[-3:-1] == [
        "   system: You answer in one short sentence.",
        "     user: What is the capital of France?",
    ]


def test_forgotten_turns_are_told(example):
    printed = example("callbacks.py").splitlines()
    assert printed[0].startswith("forgotten: user: 'Here is list number 1: 100, 101")
    assert printed[-1].startswith("40 tokens were made")


def test_an_answer_that_is_cancelled_leaves_a_conversation(example):
    printed = example("in_asyncio.py")
    assert "Paris" in printed
    assert "6 turns, " in printed


def test_a_session_goes_on(example, tmp_path):
    first = example("keep_it.py", tmp_path / "talk.session")
    second = example("keep_it.py", tmp_path / "talk.session")
    assert "> Tell me a story about a lighthouse." in first
    assert "2 turns in" in first
    assert "> Go on with the story." in second
    assert "lighthouse" in second.lower()
    assert "4 turns in" in second
