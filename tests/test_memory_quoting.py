"""How passages stand in a message: instructions before it, what was told behind it, the best last."""

import pytest

from edgesink.memory.archive import Passage
from edgesink.memory.recalling import fitting, place_in, quoted


class Letters:
    """A tokenizer of characters."""

    def encode(self, text):
        return list(text)


def passage(number, text, role="user"):
    return Passage(number, 1, 0, 9, role, 0.0, False, text)


ILSE = passage(7, "My cousin Ilse\nlives in Bergen.")
RENT = passage(3, "The rent is due on Monday.")
HARBOUR = passage(5, "The harbour has a lighthouse.", "assistant")
BRIEF, CAPTAIN = passage(1, "Always answer briefly."), passage(2, "Call me Captain.")
ASKED = "Where is she?"


@pytest.mark.parametrize(
    ("wishes", "found", "expected"),
    [
        ([], [], ASKED),
        ([], [ILSE], "Where is she? (I told you: My cousin Ilse lives in Bergen.)"),
        ([], [ILSE, RENT],
         "Where is she? (I told you: The rent is due on Monday. My cousin Ilse lives in Bergen.)"),
        ([], [ILSE, HARBOUR],
         "Where is she? (You said: The harbour has a lighthouse.) (I told you: My cousin Ilse lives in Bergen.)"),
        ([BRIEF, CAPTAIN], [RENT],
         "What I want from now on: “Always answer briefly.”\nWhat I want from now on: “Call me Captain.”\n\n"
         "Where is she? (I told you: The rent is due on Monday.)"),
    ],
)  # fmt: skip
def test_the_words_around_a_message(wishes, found, expected):
    written = quoted(ASKED, *fitting(Letters(), wishes, found, 300))
    assert written == expected
    assert place_in(written, ASKED) == expected.index(ASKED)


def test_what_does_not_fit_the_budget_is_left_out_the_worst_first():
    one = len(" (I told you: The rent is due on Monday.)")
    assert fitting(Letters(), [], [RENT, ILSE], one) == ([], [RENT])
    assert fitting(Letters(), [], [RENT], one - 1) == ([], [])
    newest = len("What I want from now on: “Call me Captain.”") + 1
    assert fitting(Letters(), [BRIEF, CAPTAIN], [RENT], newest) == ([CAPTAIN], [])
    assert fitting(Letters(), [BRIEF, CAPTAIN], [], 300) == ([BRIEF, CAPTAIN], [])


def test_a_message_is_found_among_quotations_that_have_its_words():
    said = passage(9, "Call me.")
    written = quoted("Call me", [CAPTAIN], [said])
    assert written[place_in(written, "Call me") :] == "Call me (I told you: Call me.)"
    assert place_in("trimmed by a template", "Call me") == -1
    own = "What I want from now on: a coat.\n\nAnd a hat."
    assert place_in(own, own) == 0, "a message that begins as an instruction does"
