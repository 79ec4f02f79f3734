"""StreamEval: the lines, the scores of streams that remember all, nothing, or a window, and the command."""

import itertools
import json

import numpy as np

from edgesink.evaluate.recall import EVERY, Answer, ask, scores
from edgesink.sample_text import NAMES, THINGS, lines
from edgesink.spec import StreamSpec


class Letters:
    """One id a character."""

    def encode(self, text):
        return [ord(letter) for letter in text]


class Reader:
    """A stream that looks the answer up in the last `window` characters it was fed; says "?" if it is not there."""

    def __init__(self, window):
        self.window, self.text, self.position = window, "", 0

    def prefill(self, ids):
        self.text += "".join(map(chr, ids))
        self.position += len(ids)
        logits = np.zeros(128, np.float32)
        seen = self.text[-self.window :]
        question = seen[seen.rfind(", ") :]
        before = seen[: seen.rfind("question")]
        place = before.rfind(question)
        logits[ord(before[place + len(question)]) if place >= 0 else ord("?")] = 1
        return logits


def test_lines_are_numbered_and_the_things_come_again_in_the_same_order_only():
    first = list(itertools.islice(lines(), THINGS + 1))
    assert [line.number for line in first[:3]] == [1, 2, 3]
    assert len({line.thing for line in first[:THINGS]}) == THINGS
    assert first[THINGS].thing == first[0].thing
    assert list(itertools.islice(lines(), 5)) == first[:5], "the same seed, the same text"
    assert list(itertools.islice(lines(seed=1), 5)) != first[:5]


def test_the_names_differ_in_their_first_letter():
    assert len({name[0] for name in NAMES}) == len(NAMES) == 20


def test_a_stream_that_remembers_everything_is_always_right():
    answers = ask(Reader(10**9), Letters(), [0, 7, 30], 5)
    assert [answer.lines for answer in answers[:4]] == [0, 7, 30, 0], "the distances take turns"
    assert all(answer.exact and answer.chosen for answer in answers)
    assert len(answers) == 15


def test_a_stream_that_remembers_a_window_is_right_inside_it_and_never_beyond():
    window = 600
    found = {score.lines: score for score in scores(ask(Reader(window), Letters(), [1, 5, 30, 50], 6), window)}
    assert {lines: (score.exact, score.seen) for lines, score in found.items()} == {
        1: (1.0, "inside"),
        5: (1.0, "inside"),
        30: (0.0, "beyond"),
        50: (0.0, "beyond"),
    }


def test_an_answer_is_asked_for_every_ten_lines():
    reader = Reader(10**9)
    ask(reader, Letters(), [3], 4)
    assert reader.text.count("\n") == 4 * EVERY + 3  # the true answer of the last question is not fed


def test_scores_say_where_the_window_ends():
    answers = [Answer(5, 90, True, True), Answer(5, 110, False, True)]
    (score,) = scores(answers, window=100)
    assert (score.exact, score.chosen, score.seen, score.questions) == (0.5, 1.0, "edge", 2)


def test_the_command_on_a_toy(toy, tmp_path, command):
    bundle = toy.bundle(tmp_path / "bundle", StreamSpec(4, 124, 8, 16))
    words = ["eval", "recall", bundle, "--distances", "1,9", "--questions", "2", "--threads", "1"]
    code, out, _ = command(*words, "--json", "--plot", tmp_path / "recall.png")
    assert code == 0
    assert [score["lines"] for score in json.loads(out)["scores"]] == [1, 9]
    assert (tmp_path / "recall.png").exists()
    code, _, err = command(*words, "--distances", "400")
    assert code == 1
    assert "0 to 399 lines" in err
