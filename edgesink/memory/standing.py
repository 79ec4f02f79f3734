"""Standing instructions: what the user wants from now on, whatever is talked about.

Owns how such a sentence begins, in English. Refuses to guess: what is not recognised is remembered like anything else.
"""

from __future__ import annotations

import re

_BEGINNINGS = (
    r"from now on\b", r"from this point on\b", r"from today on\b", r"going forward\b", r"in the future,",
    r"as of now\b", r"for the rest of (this|our|the) (conversation|chat|talk)\b", r"(please )?always\b",
    r"(please )?never (?!mind\b)\w",
    r"(please )?(do not|don't) ever\b", r"(please )?(call|address) me\b", r"whenever i\b.*,", r"every time i\b.*,",
    r"(please )?remember to always\b", r"i want you to always\b", r"you (must|should) (always|never)\b",
)  # fmt: skip
_BEGINS = re.compile(
    r"^\W*(?:(?:and|so|okay|ok|hi|hello|well|also|oh)\b[\s,]*)*(?:" + "|".join(_BEGINNINGS) + ")", re.I
)
_WITHIN = re.compile(
    r"\b(?:from now on|from this point on|for the rest of (?:this|our|the) (?:conversation|chat))\b", re.I
)


def is_standing(sentence: str) -> bool:
    """Whether a sentence of the user is an instruction that holds from now on."""
    sentence = sentence.strip()
    if sentence.endswith("?"):
        return False
    return bool(_BEGINS.match(sentence) or _WITHIN.search(sentence))
