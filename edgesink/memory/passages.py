"""Cuts what was said into passages: sentences in groups that are long enough to stand alone and short enough to quote.

Owns where a text is cut. Knows no model: how many tokens a stretch of the text has is told by where each token ends.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

FEWEST = 8  # tokens: a shorter sentence takes the next one along
MOST = 60  # tokens of a passage

_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[」』）]*|\n+")
_CLAUSE_END = re.compile(r"[,;:、，；—]+(?=\s)|[、，；]+")
_WORD_END = re.compile(r"\s+")


@dataclass(frozen=True)
class Cut:
    """A stretch of a text."""

    start: int  # first character
    end: int  # behind the last
    first: int  # first token
    last: int  # behind the last


def cut(text: str, ends: Sequence[int]) -> list[Cut]:
    """Cut a text into passages of at most MOST tokens, where it can be done between words.

    Args:
        text: what was said.
        ends: for every token, how many characters of the text there are up to its end; ascending.
    Returns:
        the passages in order, white space around them left out; together they have every word.
    """
    passages: list[Cut] = []
    start = end = 0
    for stop in _stops(text, ends):
        if end > start and _tokens(ends, start, stop) > MOST:
            passages += _trimmed(text, ends, start, end)
            start = end
        end = stop
        if _tokens(ends, start, end) >= FEWEST:
            passages += _trimmed(text, ends, start, end)
            start = end
    return passages + _trimmed(text, ends, start, end)


def _stops(text: str, ends: Sequence[int]) -> Iterator[int]:
    """Where the text may be cut: behind sentences, and in those that are too long behind clauses or words."""
    start = 0
    for stop in _behind(_SENTENCE_END, text, 0, len(text)):
        yield from _shorter(text, ends, start, stop, (_CLAUSE_END, _WORD_END))
        start = stop


def _shorter(
    text: str, ends: Sequence[int], start: int, stop: int, patterns: tuple[re.Pattern[str], ...]
) -> Iterator[int]:
    """The ends of parts of a sentence of at most MOST tokens each; one word may be longer."""
    if _tokens(ends, start, stop) <= MOST or not patterns:
        yield stop
        return
    begin = reached = start
    for place in _behind(patterns[0], text, start, stop):
        if _tokens(ends, begin, place) > MOST and reached > begin:
            yield reached
            begin = reached
        if _tokens(ends, begin, place) > MOST:
            yield from _shorter(text, ends, begin, place, patterns[1:])
            begin = place
        reached = place
    if reached > begin:
        yield reached


def _behind(pattern: re.Pattern[str], text: str, start: int, stop: int) -> Iterator[int]:
    """The ends of what matches in a stretch, and the stretch's own."""
    for match in pattern.finditer(text, start, stop):
        if match.end() < stop:
            yield match.end()
    yield stop


def _tokens(ends: Sequence[int], start: int, stop: int) -> int:
    """Tokens that end in a stretch of the text."""
    return bisect_right(ends, stop) - bisect_right(ends, start)


def _trimmed(text: str, ends: Sequence[int], start: int, end: int) -> list[Cut]:
    """The stretch without white space around it, or nothing."""
    said = text[start:end]
    start, end = end - len(said.lstrip()), start + len(said.rstrip())
    if start >= end:
        return []
    last = bisect_right(ends, end - 1) + 1  # the token that has the last character
    return [Cut(start, end, bisect_right(ends, start), min(last, len(ends)))]
