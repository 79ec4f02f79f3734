"""A conversation and its transcript; taken back, it is bit for bit as if the last exchange had never been."""

import asyncio
import contextlib

import numpy as np
import pytest

import edgesink
from edgesink import load
from edgesink.errors import BadOption
from edgesink.runtime.chat import Chat
from edgesink.runtime.sampling import SamplingSpec
from edgesink.spec import StreamSpec

SAMPLING = SamplingSpec(temperature=1.0, seed=1)


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    """A toy that speaks in one token a byte, and sees 128 of them."""
    return toy.bundle(tmp_path_factory.mktemp("undo") / "bundle", StreamSpec(3, 125, 64, 8))


@pytest.fixture(scope="module")
def bundle_of_two_views(two_views, tmp_path_factory):
    """The same with a layer that has a window of its own."""
    return two_views.bundle(tmp_path_factory.mktemp("views") / "bundle", StreamSpec(3, 125, 64, 8))


def said(tokens):
    return [token.id for token in tokens]


def ran_on(chat, messages, tokens=12):
    return [said(chat.answer(message, tokens)) for message in messages]


@pytest.mark.parametrize("kind", ["bundle", "bundle_of_two_views"])
@pytest.mark.parametrize("before", [0, 1, 3, 9], ids="after {} exchanges".format)
@pytest.mark.parametrize("size", [1, 30, 300], ids="of {} bytes".format)
def test_after_undo_the_conversation_goes_on_as_one_that_never_had_that_exchange(kind, before, size, request):
    bundle = request.getfixturevalue(kind)
    chat, other = Chat(load(bundle)), Chat(load(bundle))
    for one in (chat, other):
        ran_on(one, [f"message {i}" for i in range(before)])
    list(chat.answer("x" * size, 12))
    assert chat.undo() == "x" * size
    assert (chat.turns, chat.stream.position) == (other.turns, other.stream.position)
    assert np.array_equal(*(one.stream.prefill([5, 6, 7]) for one in (chat, other)))


def test_exchanges_are_taken_back_as_far_as_memory_reaches(bundle):
    chat = Chat(load(bundle))
    places = []
    for i in range(12):
        places.append((chat.stream.position, chat.turns))
        list(chat.answer(f"message {i}", 12))
    reach = chat.undoable
    assert 2 <= reach < 12
    assert chat.stream.journal.bytes <= chat.stream.state_bytes
    expected = Chat(load(bundle))
    ran_on(expected, [f"message {i}" for i in range(12 - reach)])
    for i in range(11, 11 - reach, -1):
        assert chat.undo() == f"message {i}"
        assert (chat.stream.position, chat.turns) == places[i]
    assert said(chat.answer("go on", 9)) == said(expected.answer("go on", 9))
    chat.undo()
    with pytest.raises(BadOption, match="no longer kept"):
        chat.undo()


def test_before_the_ring_has_gone_round_going_back_costs_no_memory(bundle):
    chat = Chat(load(bundle))
    ran_on(chat, ["a", "b"], 5)
    assert (chat.undoable, chat.stream.journal.bytes) == (2, 0)
    chat.undo()
    chat.undo()
    with pytest.raises(BadOption, match="nothing has been said"):
        chat.undo()


def test_nothing_is_kept_where_no_memory_is_given(bundle):
    chat = Chat(load(bundle), undo_bytes=0)
    list(chat.answer("hello", 3))
    with pytest.raises(BadOption, match="no longer kept"):
        chat.undo()


def test_a_greedy_answer_is_the_same_again_and_a_drawn_one_another(bundle):
    chat = Chat(load(bundle))
    ran_on(chat, ["one", "two", "three"], 40)
    first = said(chat.answer("four", 30))
    assert said(chat.retry(30)) == first
    chat.set_sampling(temperature=1.5, seed=3)
    assert said(chat.retry(30)) != said(chat.retry(30))
    assert [turn.text for turn in chat.turns if turn.role == "user"] == ["one", "two", "three", "four"]


def test_an_edited_message_takes_the_place_of_the_last(bundle):
    chat, other = Chat(load(bundle)), Chat(load(bundle))
    ran_on(chat, ["one", "tow"], 20)
    with pytest.raises(BadOption, match="empty message"):
        chat.edit(" ")
    assert len(chat.turns) == 4
    edited = said(chat.edit("two", 20))
    ran_on(other, ["one"], 20)
    assert said(other.answer("two", 20)) == edited
    assert chat.turns == other.turns


def test_the_transcript_says_what_was_cut_and_where_all_of_it_stands(bundle):
    stream = load(bundle)
    chat = Chat(stream, "Be brief")
    answer = chat.answer("hello")
    taken = [next(answer) for _ in range(5)]
    answer.close()
    system, user, assistant = chat.turns
    head = len(b"system: Be brief") + 2
    assert (system.role, system.text, system.start, system.end) == ("system", "Be brief", 0, head)
    opened, closed = len(b"user: ") + 1, 1 + len(b"assistant: ") + 1
    assert (user.text, user.start, user.end, user.cut) == ("hello", head, head + opened + 5 + closed, False)
    assert (assistant.start, assistant.end, assistant.cut) == (user.end, user.end + 5, True)
    assert assistant.text == "".join(token.text for token in taken)
    list(chat.answer("and?", 1))
    assert chat.turns[3].start == assistant.end + 1, "behind the token that ends an answer"
    assert stream.sinks == head + opened, "all that stands before the first message"


def test_an_answer_that_nobody_asks_on_ends_where_the_next_message_comes(bundle):
    chat = Chat(load(bundle))
    left = chat.answer("one", 30)
    next(left)
    list(chat.answer("two", 3))
    assert [(turn.role, turn.cut) for turn in chat.turns] == [
        ("user", False), ("assistant", True), ("user", False), ("assistant", True),
    ]  # fmt: skip
    position = chat.stream.position
    assert list(left) == []
    assert (chat.stream.position, len(chat.turns)) == (position, 4)


def test_a_message_of_which_nothing_was_read_is_in_no_transcript(bundle):
    chat = Chat(load(bundle))
    list(chat.answer("one", 3))
    feed = chat.stream._backend.feed
    chat.stream._backend.feed = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        list(chat.answer("two"))
    chat.stream._backend.feed = feed
    assert (len(chat.turns), chat.undoable) == (2, 1)
    assert chat.undo() == "one"


def test_tokens_and_turns_that_leave_the_window_are_told(bundle):
    tokens, evictions = [], []
    chat = Chat(load(bundle), on_token=tokens.append, on_evict=evictions.append)
    made = [token for i in range(9) for token in chat.answer(f"message {i}", 12)]
    assert tokens == made
    told = [turn for eviction in evictions for turn in eviction.turns]
    assert told == list(chat.turns[: len(told)])
    assert told[-1].end <= chat.stream.position - chat.stream.window < chat.turns[len(told)].end
    assert evictions[-1].tokens <= chat.stream.evicted


def test_answers_come_to_asyncio_and_a_cancelled_one_is_closed(bundle):
    chat, other = Chat(load(bundle)), Chat(load(bundle))

    async def talk():
        whole = [token.id async for token in chat.stream_answer("hello", 9)]
        task = asyncio.create_task(drain())
        while chat.stream.position < 90:
            await asyncio.sleep(0.001)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return whole

    async def drain():
        async with contextlib.aclosing(chat.stream_answer("and then?")) as tokens:
            async for _ in tokens:
                pass

    assert asyncio.run(talk()) == said(other.answer("hello", 9))
    assert chat.turns[-1].cut
    position = chat.stream.position
    assert said(chat.answer("still there?", 5))
    assert chat.stream.position > position


def test_a_memory_writes_into_the_turn_and_learns_of_what_was_said(bundle):
    class Notes:
        def __init__(self):
            self.turns, self.answering = [], False

        @contextlib.contextmanager
        def around(self, chat, message):
            self.answering = True
            yield f"(noted: {len(self.turns)}) {message}"
            self.answering = False

        def remember(self, turns):
            self.turns += turns

        def take_back(self, position):
            self.turns = [turn for turn in self.turns if turn.start < position]

    notes = Notes()
    chat, other = edgesink.Chat(load(bundle), memory=notes), edgesink.Chat(load(bundle))
    assert said(chat.answer("hello", 9)) == said(other.answer("(noted: 0) hello", 9))
    assert not notes.answering
    assert (chat.turns[0].text, notes.turns) == ("hello", list(chat.turns))
    list(chat.answer("again", 9))
    chat.undo()
    assert notes.turns == list(chat.turns)


def test_one_seed_is_one_sequence_of_answers(bundle):
    chats = [Chat(load(bundle), sampling=SAMPLING) for _ in range(2)]
    first, second = (ran_on(chat, ["hello", "hello"], 20) for chat in chats)
    assert first == second
    with pytest.raises(BadOption, match="temperatur"):
        chats[0].set_sampling(temperatur=1)
    with pytest.raises(BadOption, match="top_p = 2"):
        chats[0].set_sampling(top_p=2.0, temperature=0.1)
    assert chats[0].sampling == SAMPLING


def test_a_new_conversation_may_have_another_system_prompt(bundle):
    chat, other = Chat(load(bundle), "Be brief"), Chat(load(bundle), "Be long and wide")
    list(chat.answer("hello", 5))
    chat.reset("Be long and wide")
    assert said(chat.answer("hello", 5)) == said(other.answer("hello", 5))
    assert chat.stream.sinks == other.stream.sinks
    with pytest.raises(BadOption, match="at most 64"):
        chat.reset("Be long. " * 20)
    assert (chat.system, len(chat.turns)) == ("Be long and wide", 3)


def test_a_system_prompt_that_does_not_fit_is_said_where_that_is_enough(bundle):
    chat = Chat(load(bundle), "Be brief. " * 20, pin="fit")
    assert chat.stream.sinks == 3
    assert "217 tokens" in chat.unpinned
    assert "at most 64" in chat.unpinned
    assert Chat(load(bundle), "Be brief", pin="none").stream.sinks == 3
    with pytest.raises(BadOption, match="'system', 'fit' or 'none'"):
        Chat(load(bundle), pin="all")
