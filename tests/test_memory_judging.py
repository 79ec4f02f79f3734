"""The model judges what belongs to a message: its stream is as it was, and what it says decides what comes back."""

from contextlib import closing, contextmanager
from itertools import islice

import numpy as np
import pytest

import edgesink
from edgesink.errors import BadOption, RunFailed
from edgesink.memory.archive import Archive, NewPassage
from edgesink.memory.asking import asking
from edgesink.memory.calibration import Calibration, Numbers
from edgesink.memory.judging import FEWEST_ROOM, MOST_MESSAGE, Judge
from edgesink.memory.memory import Memory
from edgesink.memory.sample_talk import notes
from edgesink.memory.search import (
    JUDGED,
    LEAST_SUM,
    NEAR_SUM,
    OF_GATE,
    OF_LIKENESS,
    SUREST,
    USUAL,
    WIDER,
    AsFed,
    Asked,
    search,
)
from edgesink.spec import StreamSpec

LONG = "Nothing happened that anybody would like to be told again. " * 8
SPEC = StreamSpec(sinks=4, window=300, max_sinks=64, chunk=64)  # tokens of the toy are bytes


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("judging") / "bundle", SPEC)


def talking(bundle, turns=12):
    """A conversation that has lost its beginning, or one at its start."""
    chat = edgesink.Chat(edgesink.load(bundle), pin="none")
    for number in range(turns):
        list(chat.answer(f"Sentence {number} is about the mild weather of today.", 2))
    return chat


@contextmanager
def judging(chat, message, encode=None):
    """The judge of passages for a message, None if there is none."""
    unfed = chat.next_turn(message)
    with asking(chat.stream, calibration(), message, unfed, encode or chat.text_ids) as (_, gains):
        yield gains


def parts(chat, message):
    """What is fed before the message, and the message."""
    unfed = chat.next_turn(message)
    return list(unfed.turn[: unfed.before]), list(unfed.turn[unfed.before :][: unfed.message_size])


def nats_by_hand(bundle, chat, before, message):
    """The same measured in a copy of the stream, token by token; the first does not count."""
    stream = edgesink.load(bundle)
    stream.return_to(chat.stream.snapshot())
    logits = stream.feed([*before, message[0]])
    found = []
    for id_ in message[1:]:
        scores = logits.astype(np.float64)
        found.append(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[id_])
        logits = stream.feed([id_])
    return np.array(found)


def gain_by_hand(bundle, chat, message, passage):
    """How much likelier a message's ids are behind a passage's; a token counts 2 at most."""
    head, ids = message
    gains = nats_by_hand(bundle, chat, head, ids) - nats_by_hand(bundle, chat, head + passage, ids)
    assert (abs(gains) > 2).any(), "what follows is seen only where one counts less than it is"
    return np.clip(gains, -2, 2).mean()


@pytest.mark.parametrize("turns", [0, 12])
@pytest.mark.parametrize("message", ["Who has it?", "Who has the ladder and the box?"])
def test_a_gain_is_how_much_likelier_the_message_is_a_token(bundle, turns, message):
    chat = talking(bundle, turns)
    head, ids = parts(chat, message)
    judged = ids[:MOST_MESSAGE]
    passage = chat.text_ids("Ilse has it.\n")
    expected = gain_by_hand(bundle, chat, (head, judged), passage)
    with judging(chat, message) as gains:
        assert list(gains(["Ilse  has\nit.", "Ilse has it."])) == pytest.approx([expected, expected], abs=1e-4)


def test_the_lengths_above_are_of_a_message_that_is_judged_whole_and_of_one_that_is_not(bundle):
    assert len("Who has it?") <= MOST_MESSAGE < len("Who has the ladder and the box?")


def test_a_message_of_one_token_is_no_likelier_behind_anything(bundle):
    with judging(talking(bundle), "W") as gains:
        assert list(gains(["Ilse has it.", "It is Ilse's."])) == [0, 0]


def test_a_control_token_that_is_spelled_in_a_passage_is_judged_as_text(bundle):
    chat = talking(bundle)
    head, message = parts(chat, "Who has it?")
    passage = "<begin>Ilse has it."
    ids, plain = chat.text_ids(f"{passage}\n"), chat.stream.tokenizer.encode(f"{passage}\n")
    assert len(ids) > len(plain), "which takes it for one"
    expected = gain_by_hand(bundle, chat, (head, message), ids)
    with judging(chat, "Who has it?") as gains:
        assert list(gains([passage])) == pytest.approx([expected], abs=1e-4)


def test_a_passage_that_cannot_be_encoded_is_not_what_is_meant(bundle):
    chat = talking(bundle)

    def encode(text):
        if "worse" in text:
            raise BadOption("a control token in a message")
        return chat.text_ids(text)

    with judging(chat, "Who has it?", encode) as gains:
        found = list(gains(["Much worse.", "Ilse has it."]))
    assert found[0] == -np.inf
    assert np.isfinite(found[1])


@pytest.mark.parametrize("judgements", [0, 1, 3])
@pytest.mark.parametrize("turns", [0, 12])
@pytest.mark.parametrize("message", ["Who has it?", "Who has the ladder and the box?", "Who has it? " * 9])
def test_the_stream_is_as_if_nothing_had_been_judged(bundle, turns, judgements, message):
    judged, other = talking(bundle, turns), talking(bundle, turns)
    with judging(judged, message) as gains:
        assert (gains is None) == (len(message) > 64)
        if gains is not None:
            with closing(gains(["Ilse has it.", LONG, ""])) as found:
                assert len(list(islice(found, judgements))) == judgements
    assert judged.stream.position == other.stream.position
    answers = ["".join(token.text for token in chat.answer(message, 12)) for chat in (judged, other)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("turns", [0, 12])
def test_the_stream_is_as_it_was_when_judging_fails(bundle, turns, monkeypatch):
    judged, other = talking(bundle, turns), talking(bundle, turns)
    feed = judged.stream.feed_all

    def failing(ids, rows):
        feed(ids, rows)
        raise RunFailed("stopped", "", "")

    def judge():
        with judging(judged, "Who has it?") as gains:
            monkeypatch.setattr(judged.stream, "feed_all", failing)
            next(gains(["Ilse has it."]))

    with pytest.raises(RunFailed):
        judge()
    with pytest.raises(RunFailed), judging(judged, "Who has it?"):
        pass
    assert judged.stream.position == other.stream.position
    answers = ["".join(token.text for token in chat.answer("Who has it?", 12)) for chat in (judged, other)]
    assert answers[0] == answers[1]


def test_a_message_that_leaves_no_room_for_a_passage_is_not_judged(toy, tmp_path, bundle):
    chat = talking(toy.bundle(tmp_path / "small", StreamSpec(sinks=4, window=300, max_sinks=64, chunk=16)))
    for message in ("Who has it?", "Who has the long ladder and the box of tools by now?"):
        with judging(chat, message) as gains:
            assert gains is None
    chat = talking(bundle)
    head, ids = parts(chat, "Who has the long ladder and the box?")
    judge = Judge(chat.stream, len(head), ids, chat.text_ids)
    assert judge.can_judge, "of a long message the first tokens are"
    assert FEWEST_ROOM <= judge.room < 64 - MOST_MESSAGE


WIDTH = 4
LEAST = 0.6


def calibration(asks=1.0):
    zeros = np.zeros(WIDTH, np.float32)
    return Calibration(
        "made up", Numbers(0, 0, -1.0, -1.0, LEAST, 0.5, 0.5), zeros, zeros + 1, zeros,
        np.zeros((2, WIDTH), np.float32), np.array([asks, 1], np.float32),
    )  # fmt: skip


class Said:
    def words(self):
        return ["unheard"]


def searched(tmp_path, cosines, gains, asks=1.0):
    """What is found among passages of given cosines with the message, judged as given."""
    archive, made = Archive(tmp_path / "talk.memory"), calibration(asks)
    passages = []
    for name, cosine in cosines.items():
        rows = np.array([[cosine, np.sqrt(1 - cosine**2), 0, 0]], np.float32)
        tokens, mean = made.packed(rows)
        passages.append(NewPassage(0, 9, f"It is {name}.", tokens=tokens, mean=mean))
    archive.add(archive.begin_stream("print"), "user", passages, made.name)
    rows, asked = np.array([[1, 0, 0, 0]], np.float32), []

    def judge(texts):
        for text in texts:
            asked.append(text)
            yield gains[text.split()[-1][:-1]]

    message = Asked("unheard of", AsFed(Said(), rows, rows))
    found = search(archive, message, made, 0, 0, 2, judge if gains is not None else None)
    archive.close()
    return [one.passage.text.split()[-1][:-1] for one in found], [text.split()[-1][:-1] for text in asked]


def test_likeness_alone_brings_back_what_is_near_the_best(tmp_path):
    assert searched(tmp_path, {"near": 0.9, "nearer": 0.95, "far": 0.7}, None) == (["nearer", "near"], [])


def test_the_judge_turns_the_order_round_and_clears_away_what_is_behind(tmp_path):
    gains = {"likest": -0.5, "right": 1.5}
    assert OF_LIKENESS * (0.9 - 0.8) - 0.5 + NEAR_SUM < 1.5
    assert searched(tmp_path, {"likest": 0.9, "right": 0.8}, gains) == (["right"], ["likest", "right"])


def test_what_is_nearly_as_good_comes_along(tmp_path):
    gains = {"one": -0.3, "other": NEAR_SUM / 2 - 0.3}
    assert searched(tmp_path, {"one": 0.8, "other": 0.8}, gains)[0] == ["other", "one"]


def test_nothing_is_judged_that_would_not_come_back_without_making_the_message_likelier_than_any(tmp_path):
    apart = OF_LIKENESS * 0.1
    cosines = {"first": 0.9, "second": 0.8, "third": 0.7}
    first = USUAL + NEAR_SUM - apart
    found = searched(tmp_path, cosines, {"first": first + 0.02, "second": 9.0, "third": 9.0})
    assert found == (["first"], ["first"])
    (tmp_path / "talk.memory").unlink()
    found = searched(tmp_path, cosines, {"first": first - 0.02, "second": USUAL - 0.02, "third": 9.0})
    assert found == (["first", "second"], ["first", "second"])


def test_what_likeness_alone_would_refuse_comes_back_if_the_message_becomes_likelier(tmp_path):
    low = (LEAST + WIDER * LEAST) / 2
    gain = USUAL + OF_LIKENESS * (LEAST - low) + LEAST_SUM - OF_GATE * SUREST
    assert searched(tmp_path, {"low": low}, None)[0] == []
    (tmp_path / "talk.memory").unlink()
    assert searched(tmp_path, {"low": low}, {"low": gain + 0.1})[0] == ["low"]
    (tmp_path / "talk.memory").unlink()
    assert searched(tmp_path, {"low": low}, {"low": gain - 0.1})[0] == []
    (tmp_path / "talk.memory").unlink()
    assert searched(tmp_path, {"low": 0.9 * WIDER * LEAST}, {"low": 9.0}) == ([], []), "far below it is not asked about"


@pytest.mark.parametrize("surer", [0.0, SUREST / 2, SUREST, 2 * SUREST])
def test_the_surer_the_gate_is_the_less_a_passage_must_have(tmp_path, surer):
    asks = calibration().numbers.asks + surer
    enough = LEAST_SUM - OF_GATE * min(surer, SUREST)
    gain = enough + USUAL - OF_LIKENESS * (0.9 - LEAST)
    assert searched(tmp_path, {"it": 0.9}, {"it": gain + 0.02}, asks)[0] == ["it"]
    (tmp_path / "talk.memory").unlink()
    assert searched(tmp_path, {"it": 0.9}, {"it": gain - 0.02}, asks)[0] == []
    (tmp_path / "talk.memory").unlink()
    assert searched(tmp_path, {"it": 0.9}, None, asks)[0] == ["it"], "without a judge it is let through or not"


def test_only_a_few_are_judged(tmp_path):
    names = [f"n{number}" for number in range(9)]
    cosines = {name: 0.9 - 0.01 * number for number, name in enumerate(names)}
    assert searched(tmp_path, cosines, dict.fromkeys(names, -1.0))[1] == names[:JUDGED]


def test_a_memory_that_is_told_not_to_does_not_judge(bundle, tmp_path, monkeypatch):
    asked = []

    def gains(self, passages):
        for passage in passages:
            asked.append(passage)
            yield 9.0

    monkeypatch.setattr(Judge, "gains", gains)
    for judge in (True, False):
        chat = edgesink.Chat(edgesink.load(bundle), pin="none")
        numbers = Numbers(1, 0, -1e9, -1e9, 0.1, 0.5, 0.5)
        draw = np.random.default_rng(0)
        arrays = [draw.normal(size=shape).astype(np.float32) for shape in (32, 32, 32, (2, 32), 2)]
        memory = Memory(tmp_path / f"{judge}.memory", compare=Calibration("print:0", numbers, *arrays), judge=judge)
        chat.memory = memory
        for number in range(12):
            list(chat.answer(f"Sentence {number} is about the mild weather of today.", 2))
        asked.clear()
        with memory.around(chat, "Umbrellas?"):
            assert memory.trouble == ""
        assert bool(asked) == judge
        memory.close()


@pytest.mark.slow
def test_a_real_model_finds_more_by_judging_than_by_chance(smollm2_bundles):
    """Of each question in other words and four notes, one of them the right one: chance is 3 of 12."""
    bundle = smollm2_bundles("int4", StreamSpec(4, 508, 64, 64))
    chat = edgesink.Chat(edgesink.load(bundle), pin="none")
    list(chat.answer("Hello.", 4))
    about, right = notes("develop")[:12], 0
    for at, note in enumerate(about):
        texts = [about[(at + step) % len(about)].text for step in range(4)]
        with judging(chat, note.other) as gains:
            right += int(np.argmax(list(gains(texts)))) == 0
    assert right >= 7
