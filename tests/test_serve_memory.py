"""`edgesink serve --memory`: what left a conversation's window comes back, and clients never see the quotation.

The toy's tokens are bytes and what it answers means nothing; that a real model is shown its passage is at the end.
"""

import logging
import sqlite3
import time

import openai
import pytest
from serving import MODEL, assistant, cached, served, user

from edgesink import load
from edgesink.errors import BadOption
from edgesink.memory import memory as memory_module
from edgesink.memory.archive import Archive
from edgesink.runtime.tokenizer import Detokenizer
from edgesink.serve.memories import LIVE, Memories
from edgesink.serve.settings import Limits, Settings
from edgesink.spec import StreamSpec

SHED = "The code of the garden shed is 4471."
ASKED = "What is the code of the garden shed?"
QUOTED = f"{ASKED} (I told you: {SHED})"


@pytest.fixture(scope="module")
def stream(toy, tmp_path_factory):
    return load(toy.bundle(tmp_path_factory.mktemp("served") / "bundle", StreamSpec(4, 600, 32, 32)))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept"


class Talk:
    """A client that sends its whole history with every message."""

    def __init__(self, server, system=None):
        self.server, self.messages = server, [] if system is None else [{"role": "system", "content": system}]

    def say(self, text, **options):
        """The completion; its answer is part of the history from now on."""
        answer = self.server.ask([*self.messages, user(text)], **{"max_tokens": 3, **options})
        self.messages += [user(text), assistant(answer.choices[0].message.content)]
        return answer

    def chat(self, turns=8):
        """Enough small talk that what was said before is evicted."""
        for number in range(turns):
            self.say(f"Sentence {number} is about the weather, which was pleasant and mild today.", max_tokens=1)


def conversation(server, answer):
    return server.service.conversations.find(answer.edgesink["conversation"])


def read(server, answer):
    """The text of the last tokens that a conversation has read."""
    stream = conversation(server, answer).stream
    detokenizer = Detokenizer(stream.tokenizer)
    return "".join(detokenizer.push(int(id_)) for id_ in stream.past.latest()) + detokenizer.finish()


def recalled(answer):
    return [passage["text"] for passage in answer.edgesink["recalled"]]


def told(server, answer):
    """What the memory of a conversation has of its user."""
    archive = conversation(server, answer).memory.memory.archive
    return [passage.text for passage in archive.export() if passage.role == "user"]


def files(folder, kind):
    return sorted(path.name for path in folder.glob(f"*.{kind}"))


def test_what_was_evicted_is_quoted_and_the_conversation_goes_on_from_what_the_client_knows(stream, folder):
    with served(stream, folder=folder, memory=True) as server:
        talk = Talk(server)
        first = talk.say(SHED)
        assert recalled(talk.say(ASKED)) == []  # it is still seen
        talk.chat()
        before = talk.say("Fine.")
        answer = talk.say(ASKED)
        assert recalled(answer) == [SHED]
        (passage,) = answer.edgesink["recalled"]
        assert (passage["role"], passage["why"], passage["score"]) == ("user", "words", 1.0)
        assert abs(passage["said"] - time.time()) < 300
        assert passage["position"] == len("<begin>user: ") - len("<begin>") + 1  # of the first letter in the stream
        assert QUOTED in read(server, answer)
        assert answer.edgesink["quoted_tokens"] == len(QUOTED.encode()) - len(ASKED)
        turn = len("<end><begin>user: <end><begin>assistant: ".replace("<end>", "e").replace("<begin>", "b"))
        fed = answer.usage.prompt_tokens - cached(answer)  # the last answer's last token, the turn, and the quotation
        assert fed == 1 + turn + len(QUOTED.encode())
        after = talk.say("Thanks.")  # the history that is sent has no quotation
        assert cached(after) == answer.edgesink["position"]
        assert after.usage.prompt_tokens - cached(after) < 60
        assert len({one.edgesink["conversation"] for one in (first, before, answer, after)}) == 1
        assert recalled(after) == []
        assert told(server, after).count(SHED) == 1  # the quotation was not kept again


def test_a_stream_says_what_came_back_before_the_answer_begins(stream, folder):
    with served(stream, folder=folder, memory=True) as server:
        talk = Talk(server)
        talk.say(SHED)
        talk.chat()
        chunks = list(server.ask([*talk.messages, user(ASKED)], max_tokens=3, stream=True))
        heads = [getattr(chunk, "edgesink", None) for chunk in chunks]
        begins = next(i for i, chunk in enumerate(chunks) if chunk.choices[0].delta.content)
        assert [[passage["text"] for passage in head["recalled"]] for head in heads[:begins] if head] == [[], [SHED]]
        assert heads[-1]["recalled"] == heads[begins - 1]["recalled"]
        ring = server.http.get(f"/edgesink/ring/{heads[-1]['conversation']}").json()
        assert ring == heads[-1]


def test_without_a_memory_nothing_comes_back_and_answers_are_the_same(stream, folder):
    answers = []
    for memory in (False, True):
        with served(stream, folder=folder / str(memory), memory=memory) as server:
            talk = Talk(server, "Be brief")
            talk.say(SHED, max_tokens=40)
            talk.chat()
            answers.append([message["content"] for message in talk.messages])
            if not memory:
                answer = talk.say(ASKED)
                assert recalled(answer) == []
                assert "quoted_tokens" not in answer.edgesink
                assert "Earlier" not in read(server, answer)
                assert "search" not in server.http.get("/health").text
                assert not list(folder.glob("**/*.memory"))
    assert answers[0] == answers[1]  # where nothing came back


def test_a_request_may_want_nothing_back(stream, folder):
    with served(stream, folder=folder, memory=True) as server:
        talk = Talk(server)
        talk.say(SHED)
        talk.chat()
        history = [*talk.messages, user(ASKED)]
        without = server.ask(history, max_tokens=3, extra_body={"edgesink": {"recall": False}})
        assert recalled(without) == []
        assert QUOTED not in read(server, without)
        assert recalled(server.ask(history, max_tokens=3, extra_body={"edgesink": {"recall": True}})) == [SHED]
        for wrong in ({"recall": 1}, {"recal": True}, 3):
            with pytest.raises(openai.BadRequestError, match="edgesink"):
                server.ask(history, extra_body={"edgesink": wrong})
    with served(stream) as server:
        server.ask([user("Hi")], max_tokens=1, extra_body={"edgesink": {"recall": False}})
        with pytest.raises(openai.BadRequestError, match="started without --memory"):
            server.ask([user("Hi")], extra_body={"edgesink": {"recall": True}})


def test_what_was_said_in_another_branch_is_not_known_in_this_one(stream, folder):
    with served(stream, folder=folder, memory=True) as server:
        talk = Talk(server, "Be brief")
        talk.say(SHED)
        one, other = Talk(server), Talk(server)
        one.messages, other.messages = list(talk.messages), list(talk.messages)
        left, right = one.say("The code of the attic is 8800."), other.say("The code of the cellar is 1234.")
        assert left.edgesink["conversation"] != right.edgesink["conversation"]
        assert told(server, left) == [SHED, "The code of the attic is 8800."]
        assert told(server, right) == [SHED, "The code of the cellar is 1234."]
        for branch in one, other:
            branch.chat()
        assert recalled(one.say("What is the code of the cellar?")) == []
        assert recalled(other.say("What is the code of the cellar?")) == ["The code of the cellar is 1234."]
        assert recalled(one.say(ASKED)) == recalled(other.say(ASKED)) == [SHED]  # both have it from before


def test_retrying_an_answer_quotes_again_and_keeps_one_telling(stream, folder):
    with served(stream, folder=folder, memory=True) as server:
        talk = Talk(server)
        talk.say(SHED)
        talk.chat()
        history = [*talk.messages, user(ASKED)]
        first, again = server.ask(history, max_tokens=3), server.ask(history, max_tokens=3)
        assert recalled(first) == recalled(again) == [SHED]
        assert first.choices[0].message.content == again.choices[0].message.content
        assert first.edgesink["position"] == again.edgesink["position"]
        assert told(server, again).count(ASKED) == 1


def test_conversations_with_the_same_beginning_remember_apart(stream, folder):
    with served(stream, folder=folder, memory=True) as server:
        one, other = Talk(server), Talk(server)
        assert one.say("Hello.").choices[0].message.content == other.say("Hello.").choices[0].message.content
        one.say(SHED)
        other.say("The code of the garden shed is 1234.")
        one.chat()
        other.chat()
        assert recalled(one.say(ASKED)) == [SHED]
        assert recalled(other.say(ASKED)) == ["The code of the garden shed is 1234."]


def test_a_memory_goes_to_disk_with_its_conversation_and_comes_back_with_it(stream, folder):
    with served(stream, folder=folder, memory=True, streams=1) as server:
        talks = [Talk(server) for _ in range(3)]
        for number, talk in enumerate(talks):
            talk.say(f"The code of the garden shed is {number}{number}.")
        assert len(files(folder, "session")) == len(files(folder, "memory")) == 2
        for talk in talks:
            talk.chat()
        for number, talk in enumerate(talks):
            assert recalled(talk.say(ASKED)) == [f"The code of the garden shed is {number}{number}."]
        assert len(list(folder.glob(f"{LIVE}*/*.memory"))) == 1
        assert {path.stem for path in folder.glob("*.memory")} == {path.stem for path in folder.glob("*.session")}
        assert {path.stat().st_mode & 0o777 for path in folder.glob("*.memory")} == {0o600}
        once = Talk(server)
        once.messages = talks[0].messages[:-2]  # of a conversation on disk, as it was before its last message
        once.say("And which code has the garden shed?")
    assert len(files(folder, "session")) == len(files(folder, "memory")) == 4
    assert not list(folder.glob(f"{LIVE}*"))


def test_it_is_known_after_a_restart_and_dropped_by_a_server_without_memories(stream, folder):
    with served(stream, folder=folder, memory=True) as server:
        talk = Talk(server)
        talk.say(SHED, max_tokens=3)
        talk.chat()
    for path in folder.glob("*.memory"):
        with sqlite3.connect(path) as connection:
            assert connection.execute("SELECT count(*) FROM passage WHERE first IS NULL").fetchone() == (0,)
    with served(stream, folder=folder, memory=True) as server:
        talk.server = server
        answer = talk.say(ASKED)
        assert cached(answer) > 600
        assert recalled(answer) == [SHED]
        assert files(folder, "memory") == files(folder, "session") == []  # they are in memory now
    with served(stream, folder=folder) as server:
        talk.server = server
        talk.say("Fine.")
    assert len(files(folder, "session")) == 1
    assert files(folder, "memory") == []


def test_a_conversation_without_room_on_disk_takes_its_memory_with_it_and_is_remembered_again_when_read_anew(
    stream, folder
):
    with served(stream, folder=folder, memory=True, streams=1, saved_bytes=0) as server:
        talk = Talk(server, "Be brief")
        talk.say(SHED)
        talk.chat()
        Talk(server).say("Hello.")
        assert files(folder, "session") == files(folder, "memory") == []
        answer = talk.say(ASKED)
        assert cached(answer) == len("b" + "system: Be brief" + "e")  # the system prompt; all else was read anew
        assert recalled(answer) == [SHED]
        assert QUOTED in read(server, answer)
        kept = conversation(server, answer).memory.memory.archive
        (passage,) = [one for one in kept.export() if one.text == SHED]
        assert passage.last - passage.first == len(SHED)
        assert passage.first == len("b" + "system: Be brief" + "e" + "b" + "user: ")


def wait_until_idle(server):
    deadline = time.monotonic() + 10
    while server.service.scheduler.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.service.scheduler.running == 0


def test_an_answer_that_is_broken_off_is_remembered_as_far_as_it_came(stream, folder):
    with served(stream, folder=folder, memory=True) as server:
        talk = Talk(server)
        talk.say(SHED)
        talk.chat()
        said, chunks = "", server.ask([*talk.messages, user(ASKED)], max_tokens=4000, stream=True)
        for chunk in chunks:
            said += chunk.choices[0].delta.content or ""
            if len(said.strip()) > 3:
                break
        chunks.close()
        wait_until_idle(server)
        *_, kept = server.service.conversations._kept.values()
        archive = kept.memory.memory.archive
        texts = [(one.role, one.text) for one in archive.export()]
        assert ("user", ASKED) in texts
        at = texts.index(("user", ASKED))
        assert {role for role, _ in texts[at + 1 :]} == {"assistant"}
        assert all(one.last <= kept.stream.position for one in archive.export())


def test_a_message_that_was_not_read_to_its_end_is_neither_kept_nor_its_quotation_taken_for_said(stream, folder):
    with served(stream, folder=folder, memory=True) as server:
        talk = Talk(server)
        talk.say(SHED)
        talk.chat()
        long = f"{ASKED} {'And now for something else. ' * 400}"
        chunks = server.ask([*talk.messages, user(long)], max_tokens=3, stream=True)
        assert any(
            getattr(chunk, "edgesink", {}).get("recalled") for chunk in chunks
        )  # it was quoted, and is being read
        chunks.close()
        wait_until_idle(server)
        answer = talk.say(ASKED)
        assert recalled(answer) == [SHED]
        assert not any("something else" in text for text in told(server, answer))


def test_trouble_ends_a_memory_and_not_its_conversation(stream, folder, caplog):
    with served(stream, folder=folder / "plain") as server:
        plain = Talk(server)
        for text in (SHED, "Hello.", "Hello again."):
            plain.say(text, max_tokens=8)
    with served(stream, folder=folder, memory=True) as server, caplog.at_level(logging.WARNING):
        talk, other = Talk(server), Talk(server)
        first = talk.say(SHED, max_tokens=8)
        other.say("Another conversation.")
        conversation(server, first).memory.memory.archive.close()
        for text in ("Hello.", "Hello again."):
            answer = talk.say(text, max_tokens=8)
        assert talk.messages == plain.messages
        assert caplog.text.count("goes on without its memory") == 1
        assert server.http.get("/health").json() == {"status": "ok", "memory": {"failed": 1}}
        assert "edgesink_failed_memories 1.0" in server.http.get("/metrics").text
        assert str(folder) not in server.http.get("/health").text
        assert answer.edgesink["recalled"] == []
        other.chat()
        assert not conversation(server, other.say("Fine.")).memory.memory.is_off
    assert len(files(folder, "session")) == 2
    assert len(files(folder, "memory")) == 1  # what has ended is not kept


def test_a_memory_that_cannot_be_made_costs_nothing_else(stream, folder, monkeypatch, caplog):
    with served(stream, folder=folder, memory=True) as server:
        monkeypatch.setattr(memory_module, "Archive", _refuses)
        talk = Talk(server)
        assert talk.say(SHED).choices[0].message.content is not None
        assert "a conversation has no memory: the disk is full" in caplog.text
        monkeypatch.undo()
        assert talk.say("Hello.").edgesink["quoted_tokens"] == 0  # it has one from now on


def _refuses(*arguments):
    raise BadOption("the disk is full", "some room")


def test_a_damaged_memory_is_set_aside_and_the_conversation_comes_back(stream, folder, caplog):
    with served(stream, folder=folder, memory=True) as server:
        talk = Talk(server)
        talk.say(SHED)
    (path,) = folder.glob("*.memory")
    path.write_bytes(b"no database" * 1000)
    with served(stream, folder=folder, memory=True) as server:
        talk.server = server
        answer = talk.say("Hello.")
        assert cached(answer) > 0
        assert told(server, answer) == ["Hello."]
        assert "begins a new memory" in caplog.text
        assert server.http.get("/health").json()["memory"] == {"failed": 1}


def test_what_tools_are_asked_and_answer_is_not_remembered(stream, folder):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    with served(stream, folder=folder, memory=True) as server:
        messages = [
            user("The rain in Spain."), {"role": "assistant", "content": "Let me look.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "Sunny in Oslo."}, assistant("Fine."), user("Thanks."),
        ]  # fmt: skip
        answer = server.ask(messages, tools=[tool], max_tokens=1)
        archive = conversation(server, answer).memory.memory.archive
        texts = [passage.text for passage in archive.export()]
        assert texts[:4] == ["The rain in Spain.", "Let me look.", "Fine.", "Thanks."]
        assert not any("Oslo" in text or "tool_call" in text for text in texts)


def test_responses_say_what_came_back_and_a_conversation_that_is_gone_is_refused(stream, folder):
    with served(stream, folder=folder, memory=True) as server:
        options = {"model": MODEL, "max_output_tokens": 1}
        create = server.client().responses.create
        answer = create(input=SHED, **options)
        for number in range(9):
            text = f"Sentence {number} is about the weather, which was pleasant and mild today."
            answer = create(input=text, previous_response_id=answer.id, **options)
        *_, end = create(input=ASKED, previous_response_id=answer.id, stream=True, **options)
        assert [passage["text"] for passage in end.response.edgesink["recalled"]] == [SHED]
        usage = end.response.usage
        assert usage.input_tokens - usage.input_tokens_details.cached_tokens > len(QUOTED.encode())
        without = create(
            input=ASKED, previous_response_id=answer.id, extra_body={"edgesink": {"recall": False}}, **options
        )
        assert without.edgesink["recalled"] == []
    with served(stream, streams=1) as server:
        create = server.client().responses.create
        answer = create(input=SHED, **options)
        for text in ("One.", "Two."):
            create(input=text, **options)
        with pytest.raises(openai.NotFoundError, match="not kept any more") as refused:
            create(input=ASKED, previous_response_id=answer.id, **options)
        assert refused.value.code == "response_not_found"


def test_a_memory_is_bounded_and_needs_a_place(folder):
    assert Limits().memory_bytes == 32 << 20
    with pytest.raises(BadOption, match="--memory with --disk 0"):
        Settings(MODEL, memory=True)
    memories = Memories(folder, 2 << 20)
    made = memories.new(_Nowhere())
    assert made.memory.archive.most_bytes == 2 << 20
    memories.close()


class _Nowhere:
    """Stands for a stream of which nothing is asked."""


def test_what_a_killed_server_left_is_removed_and_what_a_running_one_has_is_not(folder):
    running = Memories(folder, 2 << 20)
    assert running.new(_Nowhere()) is not None
    left = folder / f"{LIVE}killed"
    left.mkdir()
    Archive(left / "x.memory").close()
    another = Memories(folder, 2 << 20)
    assert not left.exists()
    assert len(list(folder.glob(f"{LIVE}*"))) == 2
    another.close()
    running.close()
    assert list(folder.iterdir()) == []


# ---- with a real model


@pytest.fixture(scope="module")
def smollm2_stream(smollm2_bundles):
    return load(smollm2_bundles("int4", StreamSpec(4, 508, 64, 64)))


def test_a_fact_that_left_the_window_comes_back_with_a_memory_and_not_without(smollm2_stream, tmp_path):
    shown = {}
    for memory in (True, False):
        with served(smollm2_stream, folder=tmp_path / str(memory), memory=memory) as server:
            talk = Talk(server, "You are brief.")
            talk.say("My sister Ilse keeps her bicycle in the cellar of the bakery.", max_tokens=6)
            for topic in ("the tides", "bread", "locks on a canal"):
                talk.say(
                    f"Tell me about {topic}. " + f"What matters most about {topic} is what I want to know. " * 12,
                    max_tokens=2,
                )
            answer = talk.say("Where does my sister Ilse keep her bicycle?")
            shown[memory] = read(server, answer)
            assert answer.edgesink["evicted"] > 60  # the first turn is not seen any more
            assert recalled(answer)[:1] == (
                ["My sister Ilse keeps her bicycle in the cellar of the bakery."] if memory else []
            )
            position = answer.edgesink["position"]
            on = talk.say("Thanks.", max_tokens=2)
            assert cached(on) == position
    quoted = "(I told you: My sister Ilse keeps her bicycle in the cellar of the bakery.)"
    assert quoted in shown[True]
    assert "bakery" not in shown[False]
