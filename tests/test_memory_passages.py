"""What was said is cut into passages, and what is an instruction for good is told from what is not."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesink.memory.passages import MOST, Cut, cut
from edgesink.memory.sample_talk import asides, has_answer, notes, small_talk, statements
from edgesink.memory.standing import is_standing
from edgesink.memory.words import COMMON


def ends(text, size=4):
    """Tokens of `size` characters."""
    return [min(end, len(text)) for end in range(size, len(text) + size, size)]


def words(count, word="word"):
    return " ".join([word] * count)


def test_a_short_message_is_one_passage():
    text = "I live in Oslo. My cat is Tom."
    assert cut(text, ends(text)) == [Cut(0, 30, 0, 8)]


def test_sentences_are_joined_until_they_are_eight_tokens():
    one = "Twenty characters..."  # 5 tokens of 4
    text = f"{one} {one} {one} {one}"
    found = [text[piece.start : piece.end] for piece in cut(text, ends(text))]
    assert found == [f"{one} {one}", f"{one} {one}"]


def test_a_sentence_that_would_make_a_passage_too_long_begins_another():
    short, long = "Short.", f"{words(45)}."  # 2 tokens and 57
    text = f"{short} {long} {long}"
    found = [text[piece.start : piece.end] for piece in cut(text, ends(text))]
    assert found == [f"{short} {long}", long]


def test_a_sentence_without_end_is_cut_behind_its_clauses_and_then_its_words():
    text = f"{words(30)}, {words(30)}, {words(30)}."
    found = cut(text, ends(text))
    assert [text[piece.start : piece.end][-1] for piece in found] == [",", ",", "."]
    text = words(200)
    assert all(piece.last - piece.first <= MOST + 1 for piece in cut(text, ends(text)))


def test_lines_and_full_stops_of_other_scripts_end_sentences():
    text = "私は猫が好きです。" * 20
    found = cut(text, ends(text, 1))
    assert {text[piece.end - 1] for piece in found} == {"。"}


def test_tokens_of_a_passage_are_those_that_have_its_characters():
    text = "aaaa bbbb."
    assert cut(text, [2, 4, 5, 10]) == [Cut(0, 10, 0, 4)]
    assert cut("  \n ", [1, 4]) == []


@given(st.text("ab .,\n!。", max_size=400), st.integers(1, 7))
def test_no_character_that_is_not_white_space_is_lost(text, size):
    found = cut(text, ends(text, size))
    kept = "".join(text[piece.start : piece.end] for piece in found)
    assert "".join(kept.split()) == "".join(text.split())
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))
    positions = np.array([(piece.first, piece.last) for piece in found]).ravel()
    assert (np.diff(positions) >= -1).all(), "a token across a cut belongs to both"


@pytest.mark.parametrize(
    "sentence",
    [
        "From now on, answer in French.", "Please always use metric units.", "Never mention my ex-wife.",
        "Call me Sam.", "Okay, from now on you are a pirate.",
        "Whenever I say 'go', tell me a joke.", "Answer briefly from now on.",
    ],
)  # fmt: skip
def test_standing_instructions_are_recognised(sentence):
    assert is_standing(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "Never mind.", "I always take the bus.", "Will you always be here?", "She told me to call her.",
        "The call came late.", "I never met him.", "",
    ],
)  # fmt: skip
def test_what_only_looks_like_one_is_not(sentence):
    assert not is_standing(sentence)


PARTS = ("calibrate", "develop", "evaluate")


def test_nothing_is_measured_with_what_a_model_was_calibrated_or_a_rule_chosen_with():
    seen = {text for part in PARTS[:2] for note in notes(part) for text in (note.text, note.own, note.other)}
    seen |= {*small_talk("develop"), *asides("small"), *asides("ask"), *asides("told")}
    measured = {text for note in notes("evaluate") for text in (note.text, note.own, note.other)}
    assert seen & (measured | {*small_talk(), *statements()}) == set()


def test_neither_notes_nor_small_talk_are_instructions():
    said = [*(note.text for part in PARTS for note in notes(part)), *small_talk(), *small_talk("develop")]
    said += [*asides("small"), *asides("ask"), *statements()]
    assert [text for text in said if is_standing(text)] == []


def test_the_notes_are_enough_and_a_paraphrase_shares_no_word_that_matters():
    assert {part: len(notes(part)) for part in PARTS} == {"calibrate": 70, "develop": 64, "evaluate": 64}
    assert len(set(small_talk())) == len(set(small_talk("develop"))) == 100
    assert len(set(statements())) == 40
    for note in (note for part in PARTS for note in notes(part)):
        said, asked = (
            {word.strip(".,?'").lower() for word in text.split()} - COMMON for text in (note.text, note.other)
        )
        assert said & asked == set(), note
        assert has_answer(note.answers, note.text), note
        assert not has_answer(note.answers, note.other), note
