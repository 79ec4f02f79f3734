"""The plugin for `llm`: its models, conversations that are not read again, and histories that are."""

import llm
import pytest
from click.testing import CliRunner
from llm.cli import cli

from edgesink.errors import BadOption
from edgesink.runtime.chat import Chat
from edgesink.runtime.session import load
from edgesink.spec import StreamSpec

QUESTIONS = ("What is the capital of France?", "And of Italy?", "Which of the two is larger?")


@pytest.fixture(scope="module")
def bundle(smollm2_bundles):
    return smollm2_bundles("int4", StreamSpec.fitted(window=252))


def answers(conversation, bundle, questions=QUESTIONS, **options) -> list[str]:
    options = {"model": str(bundle), "temperature": 0, "max_tokens": 12} | options
    return [conversation.prompt(question, **options).text() for question in questions]


def own_answers(bundle, system=None) -> list[str]:
    chat = Chat(load(bundle), system, pin="fit")
    return ["".join(token.text for token in chat.answer(question, 12)) for question in QUESTIONS]


def test_llm_finds_the_model():
    assert llm.get_model("edgesink").model_id == "edgesink"


def test_a_conversation_is_that_of_a_chat(bundle):
    assert answers(llm.get_model("edgesink").conversation(), bundle) == own_answers(bundle)


def test_a_system_prompt_is_told(bundle):
    conversation = llm.get_model("edgesink").conversation()
    options = {"model": str(bundle), "temperature": 0, "max_tokens": 12}
    first = conversation.prompt(QUESTIONS[0], system="Answer in French.", **options).text()
    rest = answers(conversation, bundle, QUESTIONS[1:])
    assert [first, *rest] == own_answers(bundle, "Answer in French.")


def test_what_the_stream_has_read_is_not_read_again(bundle):
    model = llm.get_model("edgesink")
    conversation = model.conversation()
    answers(conversation, bundle, QUESTIONS[:2])
    _, chat = model._open
    position, size = chat.stream.position, chat.next_turn(QUESTIONS[2]).message_size
    answers(conversation, bundle, QUESTIONS[2:])
    assert chat.stream.position < position + size + 12 + 16  # a turn has some tokens around its message
    assert [turn.text for turn in chat.turns if turn.role == "user"] == list(QUESTIONS)


def test_two_conversations_in_turns_do_not_mix(bundle):
    model = llm.get_model("edgesink")
    one, other = model.conversation(), model.conversation()
    mixed = [(answers(one, bundle, [question])[0], answers(other, bundle, ["Say hello."])[0]) for question in QUESTIONS]
    assert [answer for answer, _ in mixed] == own_answers(bundle)


def test_an_answer_that_was_given_up_is_not_taken_for_said(bundle):
    model = llm.get_model("edgesink")
    next(iter(model.conversation().prompt("Count to ten.", model=str(bundle), temperature=0)))
    assert answers(model.conversation(), bundle) == own_answers(bundle)


def test_messages_that_do_not_take_turns_are_refused(bundle):
    messages = [llm.user("Hello."), llm.user("Are you there?")]
    with pytest.raises(BadOption, match="do not take turns"):
        llm.get_model("edgesink").prompt(messages=messages, model=str(bundle)).text()


def test_the_command_continues_a_conversation_from_its_log(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    options = ["-m", "edgesink", "-o", "model", str(bundle), "-o", "temperature", "0", "-o", "max_tokens", "12"]
    printed = [
        CliRunner().invoke(cli, ["prompt", question, *options, *(["--continue"] if asked else [])])
        for asked, question in enumerate(QUESTIONS)
    ]
    assert [result.exit_code for result in printed] == [0, 0, 0], printed
    assert [result.output.rstrip("\n") for result in printed] == [text.rstrip("\n") for text in own_answers(bundle)]


def test_a_model_that_is_not_there_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    result = CliRunner().invoke(cli, ["prompt", "Hello.", "-m", "edgesink", "-o", "model", str(tmp_path / "none.gguf")])
    assert result.exit_code == 1
    assert "none.gguf" in result.output
    assert "Traceback" not in result.output
