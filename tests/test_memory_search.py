"""What is found: by words only where they are rare, by likeness as an exhaustive comparison would, else nothing."""

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from edgesink.memory.archive import Archive, NewPassage
from edgesink.memory.calibration import Calibration, Numbers, normalised
from edgesink.memory.likeness import likeness, search_likeness
from edgesink.memory.sample_talk import chatter
from edgesink.memory.search import AsFed, Asked, is_question, search
from edgesink.memory.words import content_words, search_words, weights

WIDTH = 24


@pytest.fixture
def archive(tmp_path):
    made = Archive(tmp_path / "talk.memory")
    yield made
    made.close()


def said(archive, *texts):
    return archive.add(archive.begin_stream("print"), "user", [NewPassage(0, 9, text) for text in texts])


def found(archive, message, **options):
    return [one.passage.text for one in search(archive, Asked(message), None, 0, 0, 4, **options)]


def test_the_words_that_say_what_a_text_is_about():
    assert content_words("What is the code of Anna's shed, number 7? A shed!") == [
        "code",
        "anna",
        "shed",
        "number",
        "7",
    ]
    assert content_words("Who are you, and why?") == []


def test_words_speak_only_where_the_passage_has_most_of_what_is_rare(archive):
    said(archive, "The code of the garden shed is 4471.", "We walked in the garden.", *islice(chatter(1), 60))
    assert found(archive, "What is the code of the shed in the garden?")[0] == "The code of the garden shed is 4471."
    assert found(archive, "Which codes has the shed?") == ["The code of the garden shed is 4471."], "other endings"
    assert found(archive, "What is the capital of the garden of Versailles?") == []
    assert found(archive, "Hello, how are you?") == []


@pytest.mark.parametrize(
    "message", ['"', "a OR b", "NEAR(x y)", "shed*", "text:shed", "^", "-", "'; DROP TABLE passage; --", "日本"]
)
def test_no_message_is_taken_for_a_query(archive, message):
    said(archive, "Something about nothing in particular.")
    assert found(archive, message) == []
    assert archive.count == 1


def test_rarity_written_by_hand(archive):
    said(archive, "red apple", "red pear", "green apple")
    with archive.reading() as connection:
        rarity = weights(connection, ["red", "green", "blue"])
        hits = search_words(connection, rarity, 5)
    assert rarity == pytest.approx({"red": np.log(4 / 2.5), "green": np.log(4 / 1.5), "blue": np.log(4 / 0.5)})
    red, green = (rarity[word] / sum(rarity.values()) for word in ("red", "green"))
    assert [(hit.passage, hit.score) for hit in sorted(hits, key=lambda hit: hit.passage)] == [
        (1, pytest.approx(red)), (2, pytest.approx(red)), (3, pytest.approx(green)),
    ]  # fmt: skip


def test_a_question_is_told_from_a_telling():
    assert is_question("Where is it?")
    assert is_question("“Where is it?”")
    assert not is_question("It is in Oslo. Where is it?")
    assert not is_question("It is here.")


def test_likeness_written_by_hand():
    one, other = [1.0, 0.0], [0.0, 1.0]
    tokens, begins = np.array([one, other, one], np.float32), np.array([0, 2])
    score = likeness(tokens, begins, np.array([one, other], np.float32), np.array([0.5, 0.5], np.float32))
    assert score == pytest.approx([1.0, (0.5 + 0.5 * np.sqrt(0.5)) / 1.5])


CENTRES = normalised(np.random.default_rng(0).normal(size=(64, WIDTH))).astype(np.float32)


def made_up(gate=(9.0, 9.0)):
    zeros = np.zeros(WIDTH, np.float32)
    return Calibration(
        "made up", Numbers(0, 0, -1.0, -1.0, 0.3, 0.5, 0.5), zeros, zeros + 1, zeros,
        np.zeros((2, WIDTH), np.float32), np.array(gate, np.float32),
    )  # fmt: skip


def filled(archive, made, passages=1500, seed=1):
    """Passages with vectors near the centres; their vectors."""
    draw, kept, stream = np.random.default_rng(seed), [], archive.begin_stream("print")
    for _ in range(0, passages, 100):
        turn = []
        for _ in range(100):
            rows = CENTRES[draw.integers(0, 64, 8)] + 0.1 * draw.normal(size=(8, WIDTH))
            kept.append(normalised(rows))
            tokens, mean = made.packed(rows.astype(np.float32))
            turn.append(NewPassage(0, 9, "word " * 8, tokens=tokens, mean=mean))
        archive.add(stream, "user", turn, made.name)
    return kept


def test_the_most_alike_are_those_of_an_exhaustive_comparison(archive):
    made = made_up()
    passages = filled(archive, made)
    draw, same = np.random.default_rng(2), 0
    for _ in range(20):
        question = normalised(CENTRES[draw.integers(0, 64, 5)] + 0.1 * draw.normal(size=(5, WIDTH))).astype(np.float32)
        weight = np.array([0.4, 0.3, 0.2, 0.1, 0.0], np.float32)
        exact = [float(likeness(rows, np.array([0]), question, weight)[0]) for rows in passages]
        with archive.reading() as connection:
            hits = search_likeness(connection, made, question, weight, 3)
        best = [i + 1 for i in np.argsort(exact)[::-1]][:3]
        assert hits[0].score == pytest.approx(exact[hits[0].passage - 1], abs=0.02), "eight bits"
        same += len({hit.passage for hit in hits} & set(best))
    assert same >= 57, "of sixty"


def test_the_gate_and_the_least_likeness_keep_silent(archive):
    made = made_up()
    filled(archive, made, 100)

    class Said:
        def words(self):
            return ["unheard"] * 3

    rows = CENTRES[:3]
    asked = Asked("unheard of", AsFed(Said(), rows, rows))
    assert search(archive, asked, made, 0, 0, 2)
    assert search(archive, asked, made_up(gate=(-9.0, 9.0)), 0, 0, 2) == []
    assert search(archive, asked, made_up(gate=(9.0, -9.0)), 0, 0, 2) == []
    far = Asked("unheard of", AsFed(Said(), -rows.sum(axis=0, keepdims=True).repeat(3, 0), rows))
    assert all(one.score >= 0.3 for one in search(archive, far, made, 0, 0, 2))


@pytest.mark.parametrize(("message", "comes"), [
    ("What is the code of the garden shed?", True), ("And the garden shed's code?", True),
    ("What is the code of the cellar?", False), ("The code of the garden shed is easy.", False),
    ("What is a code?", False),  # one word is said in many ways
])  # fmt: skip
def test_a_question_all_of_whose_rare_words_a_passage_holds_needs_no_gate(archive, message, comes):
    text = "The code of the garden shed is 4471."
    said(archive, text, *islice(chatter(1), 60))

    class Said:
        def words(self):
            return ["unheard"]

    asked = Asked(message, AsFed(Said(), CENTRES[:1], CENTRES[:1]))
    got = search(archive, asked, made_up(gate=(-9.0, -9.0)), 0, 0, 2)
    assert [one.passage.text for one in got] == ([text] if comes else [])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_a_bounded_archive_keeps_memory_flat(tmp_path):
    """10,000 passages of 40 tokens in a file of 4 MiB: what this process holds does not grow with them."""
    archive, made = Archive(tmp_path / "small.memory", most_bytes=4 << 20), made_up()
    stream, talk, draw = archive.begin_stream("print"), chatter(3), np.random.default_rng(0)
    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096  # noqa: E731
    tokens, mean = made.packed(draw.normal(size=(20, WIDTH)).astype(np.float32))
    for turn in range(50):
        texts = [" ".join(islice(talk, 2)) for _ in range(200)]
        archive.add(stream, "user", [NewPassage(0, 40, text, tokens=tokens, mean=mean) for text in texts], made.name)
        if turn == 20:
            before = resident()
    assert archive.bytes <= 4 << 20
    assert archive.count < 10_000, "the bound was reached"
    assert resident() - before < 2 << 20
    archive.close()
