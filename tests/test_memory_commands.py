"""The commands that look into a memory, and `eval memory` on a toy."""

import dataclasses
import json
import math

import pytest

import edgesink
from edgesink.errors import BadOption
from edgesink.evaluate import memory_harm
from edgesink.evaluate.memory import is_right
from edgesink.evaluate.memory_plan import Question, Told, diary_plan, distances_plan
from edgesink.memory.archive import Archive, NewPassage
from edgesink.memory.memory import Memory
from edgesink.memory.sample_talk import changes
from edgesink.runtime.chat import Chat
from edgesink.spec import StreamSpec

SHED = "The code of the garden shed is 4471."


@pytest.fixture
def file(tmp_path):
    archive = Archive(tmp_path / "talk.memory")
    stream = archive.begin_stream("print")
    archive.add(stream, "user", [NewPassage(0, 9, SHED), NewPassage(9, 20, "From now on, be brief.", standing=True)])
    archive.add(stream, "assistant", [NewPassage(20, 30, "I will be brief.")])
    archive.close()
    return tmp_path / "talk.memory"


def test_list_shows_the_newest_last(command, file):
    code, out, err = command("memory", "list", file, "--count", 2)
    assert code == 0
    assert [line.split("  ")[-1] for line in out.splitlines()] == [
        "user, from now on: From now on, be brief.", "assistant: I will be brief.",
    ]  # fmt: skip
    assert "3 passages" in err


def test_search_shows_what_would_come_back(command, file):
    code, out, _ = command("memory", "search", file, "What is the code of the shed?")
    assert (code, out.splitlines()[0].split("  ")[0]) == (0, "1.00 by words")
    assert SHED in out
    code, out, err = command("memory", "search", file, "Where is the moon?")
    assert (code, out, "nothing would come back" in err) == (0, "", True)


def test_what_is_forgotten_is_gone_and_numbers_or_all_must_be_said(command, file):
    assert command("memory", "forget", file)[0] == 1
    assert command("memory", "forget", file, 1, "--all")[0] == 1
    code, _, err = command("memory", "forget", file, 1, 77)
    assert (code, "1 passages" in err) == (0, True)
    _, out, _ = command("memory", "export", file)
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["From now on, be brief.", "I will be brief."]
    assert command("memory", "forget", file, "--all")[0] == 0
    assert command("memory", "export", file)[1] == ""
    assert b"4471" not in file.read_bytes()


def test_numbers_that_no_database_holds_are_numbers_of_nothing(command, file):
    huge = 10**20
    code, _, err = command("memory", "forget", file, huge, huge + 1, 1)
    assert (code, "1 passages are forgotten" in err) == (0, True)
    code, out, _ = command("memory", "list", file, "--count", huge)
    assert (code, len(out.splitlines())) == (0, 2)
    assert command("memory", "search", file, "Will you be brief?", "--count", huge)[0] == 0
    archive = Archive(file)
    assert archive.get([huge, -huge, 2]).keys() == {2}
    assert [passage.id for passage in archive.newest(huge, before=huge)] == [3, 2]
    assert archive.newest(3, before=0) == archive.newest(3, before=-1) == []
    with pytest.raises(BadOption, match="more than 63 bits"):
        archive.cut_stream(huge, 0)
    archive.close()


def test_a_file_that_is_not_there_is_not_made(command, tmp_path):
    code, _, err = command("memory", "list", tmp_path / "none")
    assert code == 1
    assert "no memory at" in err
    assert not (tmp_path / "none").exists()


def test_a_plan_tells_every_note_once_and_the_farthest_first():
    told = distances_plan([1, 4], each=8)
    assert [group.windows for group in told] == [4, 1]
    messages = [message for group in told for message in group.messages]
    assert len(messages) == len(set(messages))
    for group in told:
        for question in group.questions:
            assert question.kind == "never said" or question.evidence in group.messages
    kinds = [question.kind for group in told for question in group.questions]
    assert {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)} == {
        "lines": 16, "own words": 16, "other words": 16, "changed": 12, "never said": 16,
    }  # fmt: skip


def test_a_diary_has_200_days_and_what_changes_is_told_before_it_changes():
    told = diary_plan()
    days = [message for group in told for message in group.messages]
    assert len(days) == 200
    assert days[0].startswith("Monday, 3 March. ")
    assert days[-1].startswith("Thursday, 18 September. ")
    questions = [question for group in told for question in group.questions]
    kinds = [question.kind for question in questions]
    assert {kind: kinds.count(kind) for kind in sorted(set(kinds))} == {
        "changed": 12, "negated": 12, "never said": 16, "other words": 64, "own words": 64,
    }  # fmt: skip
    for back, group in zip((150, 100, 50, 1), told, strict=True):
        for question in group.questions:
            if question.kind != "never said":
                assert any(question.evidence in message for message in group.messages)
                assert question.back == back
    for change in changes():
        (before,) = (day for day, message in enumerate(days) if change.old in message)
        (after,) = (day for day, message in enumerate(days) if change.new in message)
        assert before < 100 <= after


def test_what_a_right_answer_is():
    not_so = Question("negated", 1, "Did I buy it?", "I did not buy it.", ("no",))
    assert is_right(not_so, "No, you did not.")
    assert is_right(not_so, "You didn't buy it.")
    assert not is_right(not_so, "Yes, you bought it now.")
    assert not is_right(not_so, "I do not know whether you bought it.")
    changed = Question("changed", 1, "Where does she live?", "She lives in Porto.", ("Porto",), "Bergen")
    assert is_right(changed, "She lives in Porto.")
    assert not is_right(changed, "In Bergen, or in Porto.")
    assert is_right(Question("own words", 1, "", "x", ("nine", "9")), "It was at 9.")
    assert not is_right(Question("own words", 1, "", "x", ("nine", "9")), "It was in 1994.")
    unknown = Question("never said", 0, "", "", ())
    assert is_right(unknown, "I'm sorry, but you haven't told me.")
    assert is_right(unknown, "I don't know the name of your goldfish.")
    assert not is_right(unknown, "Your goldfish is called Bubbles.")


def test_a_bundle_that_cannot_pin_is_refused_before_anything_is_measured(toy, tmp_path, command, monkeypatch):
    monkeypatch.setattr("edgesink.evaluate.memory.tell", lambda *_: pytest.fail("it has begun"))
    bundle = toy.bundle(tmp_path / "bundle", StreamSpec(4, 700, 38, 64))
    code, _, err = command("eval", "memory", bundle, "--each", "1", "--ways", "quoted,pinned")
    assert code == 1
    assert "pins 38 rows at most, 7 of them for its sinks" in err
    assert "expected 39 or more for the way pinned" in err


def test_distances_are_taken_once_and_in_order(toy, tmp_path, command, monkeypatch):
    seen = []

    def stop(distances, each):
        seen.append(distances)
        raise BadOption("enough")

    monkeypatch.setattr("edgesink.evaluate.memory_plan.distances_plan", stop)
    bundle = toy.bundle(tmp_path / "bundle", StreamSpec(4, 700, 8, 64))
    assert command("eval", "memory", bundle, "--distances", "2,1,2", "--ways", "quoted")[0] == 1
    assert seen == [[1, 2]]


def test_a_measurement_that_is_interrupted_goes_on_where_it_was(toy, tmp_path, monkeypatch):
    from edgesink.evaluate import memory as evaluated

    bundle = toy.bundle(tmp_path / "bundle", StreamSpec(4, 250, 8, 64))
    told = [
        Told(
            3,
            [SHED, "The red box is Anna's."],
            [Question("own words", 3, "What is the code of the shed?", SHED, ("4",))],
        )
    ]

    def measured(folder):
        kept = evaluated.Folder(folder, "a plan")
        memory = Memory(kept.memory)
        chat = Chat(edgesink.load(bundle), pin="none", memory=memory)
        try:
            return list(evaluated.measure(chat, memory, told, ["nothing", "quoted"], folder=kept)), chat, memory
        finally:
            kept.close()

    whole, chat, memory = measured(tmp_path / "whole")
    passages = [(one.first, one.text) for one in memory.archive.export()]
    assert whole[1].found
    assert whole[0].tokens_back == whole[1].tokens_back > 3 * 254
    calls = iter(range(1000))
    tell = evaluated.tell

    def interrupted(*arguments):
        if next(calls) in (5, 11, 14):
            raise KeyboardInterrupt
        tell(*arguments)

    monkeypatch.setattr(evaluated, "tell", interrupted)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            measured(tmp_path / "parts")
    found, again, memory = measured(tmp_path / "parts")
    timeless = lambda one: dataclasses.replace(one, search_ms=0, bring_ms=0)  # noqa: E731
    assert [timeless(one) for one in found] == [timeless(one) for one in whole]
    assert [(one.first, one.text) for one in memory.archive.export()] == passages
    assert again.turns == chat.turns
    monkeypatch.setattr(evaluated, "_ask", lambda *_: pytest.fail("it was asked before"))
    assert [timeless(one) for one in measured(tmp_path / "parts")[0]] == [timeless(one) for one in whole]
    with pytest.raises(BadOption, match="a folder of the measurement a plan"):
        evaluated.Folder(tmp_path / "parts", "another").resume(Chat(edgesink.load(bundle), pin="none"))


def test_what_an_irrelevant_passage_costs_is_a_ratio_over_all_tokens_with_its_error():
    harm = memory_harm._pooled([0.0, 0.4], [10, 30])
    assert (harm.answers, harm.tokens) == (2, 40)
    assert harm.rise == pytest.approx(math.exp(0.01) - 1)
    assert harm.error == pytest.approx(math.exp(0.01) * math.sqrt((0.1**2 + 0.1**2) * 2) / 40)


@pytest.mark.slow
def test_eval_memory_on_a_toy(toy, tmp_path, command):
    bundle = toy.bundle(tmp_path / "bundle", StreamSpec(4, 700, 164, 64))
    words = ["eval", "memory", bundle, "--distances", "1", "--each", "1", "--ways", "nothing,quoted", "--threads", "1"]
    code, out, err = command(*words, "--json")
    assert code == 0
    assert "not calibrated" in err
    result = json.loads(out)
    kinds = {(score["kind"], score["arm"]) for score in result["scores"]}
    assert ("own words", "quoted") in kinds
    found = {score["arm"]: score["found"] for score in result["scores"] if score["kind"] == "own words"}
    assert found == {"nothing": 0.0, "quoted": 1.0}
    assert set(result["perplexity_rises"]) == {"quoted"}
    assert command(*words[:-4], "--ways", "shouted")[0] == 1
    assert command(*words[:-7], "1,2", "--each", "64")[0] == 1
