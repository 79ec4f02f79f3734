"""The script that asks a memory's questions of llama.cpp too: what it sends is what our conversation is fed."""

import json

import httpx
import memory_beside as script

import edgesink
from edgesink.evaluate.memory import Answered, tell
from edgesink.evaluate.memory_plan import Question, Told
from edgesink.spec import StreamSpec

SPEC = StreamSpec(sinks=3, window=300, max_sinks=64, chunk=8)  # tokens of the toy are bytes


def test_the_older_half_behind_the_head_is_forgotten_until_the_rest_fits():
    assert script.shifted([1, 2, 3, 4, 5], 1, 5) == [1, 2, 3, 4, 5]
    assert script.shifted([1, 2, 3, 4, 5, 6], 1, 5) == [1, 4, 5, 6]
    assert script.shifted([1, 2, 3, 4, 5, 6, 7, 8, 9], 1, 4) == [1, 8, 9]


def test_a_distance_in_windows_is_as_many_tokens_in_longer_ones():
    assert [one.windows for one in script.in_windows_of([Told(2, [], []), Told(1, [], [])], 8)] == [0.25, 0.125]


def test_the_server_is_sent_what_our_conversation_is_fed_and_forgets_questions(toy, tmp_path):
    stream = edgesink.load(toy.bundle(tmp_path / "bundle", SPEC))
    ours, fed = edgesink.Chat(stream, pin="none"), []
    feed = stream._feed
    stream._feed = lambda array, rows=1: (fed.extend(array.tolist()), feed(array, rows))[1]
    sent = []

    def serve(request):
        sent.append(json.loads(request.content))
        return httpx.Response(200, json={"content": "Rome", "timings": {"prompt_n": 1}})

    with httpx.Client(base_url="http://server", transport=httpx.MockTransport(serve)) as client:
        theirs = script.LlamaChat(client, stream, 4096)
        for message in ("One.", "Two.", "Three."):
            tell(ours, message)
            tell(theirs, message)
        assert theirs._held == fed
        assert theirs.position == stream.position == len(fed)
        assert [token.text for token in theirs.answer("Where?", 24)] == ["Rome"]
        theirs.undo()
    assert theirs._held == fed
    assert theirs.read == 3
    assert sent[-1]["prompt"][: len(fed)] == fed
    assert [one["n_predict"] for one in sent] == [0, 0, 0, 24]


def test_the_table_has_a_row_for_each_kind_that_was_asked():
    question = Question("changed", 2, "Where?", "In Rome.", ("Rome",))
    answered = [Answered(question, "nothing", False, False, right, "", 9, 0.0, 0.0) for right in (True, False)]
    assert script.table([script.Way("a", answered, 12.6e6, 31.4, 99, 88)]).splitlines() == [
        "|  | a |",
        "| --- | --- |",
        "| changed, of 2 | 1 |",
        "| keys and values, MB | 13 |",
        "| tokens of the conversation | 99 |",
        "| tokens read | 88 |",
        "| seconds to the first answer | 31 |",
    ]
