"""Searching by words: what of a question is worth looking for, and the passages that have it.

Owns the full-text query, how rare words are, and how much of what is rare in a question each passage holds; when that
is enough is `search`'s. Words that are everywhere in English are left out; in other languages their frequency in the
archive says so.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

COMMON = frozenset(
    """
    a about after again all already also always am an and another any anybody anyone anything are as ask at away
    back be because been before being both but by can come could did do does doing done each either else ever every
    everybody everyone everything few find first for from gave get give go goes going gone got had has have having
    he her here hers him his how i if in into is it its itself just keep know last later least let like long made
    make many may maybe me might mine more most much must my name need never next no nobody none nor not nothing now
    of off on once one only or other our ours out over own per please put rather really same say says see shall she
    should since so some somebody someone something soon still such take tell than that the their theirs them then
    there these they thing things think this those though thought through till to today told too under until up upon
    us use used very want wanted was way we well went were what when where whether which while who whom whose why
    will with without would year yes yet you your yours
    """.split()  # noqa: SIM905 - as a text it can be read
)
BOUND = 200  # passages: a word that is in more is not counted further
SPREAD = 4.0  # a word that is e^4 times as frequent as the rarest of a message is not looked for
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclass(frozen=True)
class Hit:
    """A passage that a search found."""

    passage: int
    score: float  # 0 … 1


def content_words(text: str) -> list[str]:
    """The words of a text that say what it is about, each once, in order, in lower case."""
    return list(dict.fromkeys(word for _, _, word in word_spans(text) if word not in COMMON))


def word_spans(text: str) -> Iterator[tuple[int, int, str]]:
    """Where the words of a text begin and end, and how they are looked for: in lower case, without an 's."""
    for match in _WORD.finditer(text):
        yield match.start(), match.end(), match.group().lower().replace("’", "'").removesuffix("'s")


def weights(connection: sqlite3.Connection, words: Sequence[str]) -> dict[str, float]:
    """How rare each word is in the archive: log of the passages for each that has it, at least 0."""
    (passages,) = connection.execute("SELECT count(*) FROM passage").fetchone()
    rarity = {}
    for word in words:
        query = "SELECT count(*) FROM (SELECT 1 FROM word WHERE word MATCH ? LIMIT ?)"
        (having,) = connection.execute(query, (_quoted(word), BOUND)).fetchone()
        rarity[word] = max(0.0, math.log((passages + 1) / (having + 0.5)))
    return rarity


def search_words(connection: sqlite3.Connection, rarity: dict[str, float], count: int) -> list[Hit]:
    """The passages that fit best by BM25, and how much of the question's rarity each of them holds.

    Args:
        connection: of the archive.
        rarity: of the words of the question.
        count: most that are wanted.
    """
    if not rarity:
        return []
    least = max(rarity.values()) - SPREAD  # of a frequent word every passage would have to be ranked
    query = " OR ".join(_quoted(word) for word, rare in rarity.items() if rare >= least)
    rows = connection.execute(
        "SELECT rowid FROM word WHERE word MATCH ? ORDER BY rank LIMIT ?", (query, count)
    ).fetchall()
    found = [id_ for (id_,) in rows]
    whole = sum(rarity.values())
    held = dict.fromkeys(found, 0.0)
    for word, rare in rarity.items():
        marks = ",".join("?" * len(found))
        having = connection.execute(
            f"SELECT rowid FROM word WHERE word MATCH ? AND rowid IN ({marks})", (_quoted(word), *found)
        )
        for (id_,) in having:
            held[id_] += rare / whole if whole else 0
    return [Hit(id_, held[id_]) for id_ in found]


def _quoted(word: str) -> str:
    """A word as FTS5 looks for it, whatever it holds."""
    return '"' + word.replace('"', '""') + '"'
