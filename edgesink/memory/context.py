"""What a passage needs from its neighbours: "She lives there" says something only behind the passage before it.

Owns which neighbour comes along, and where it stands. Cuts nothing and searches nothing.
"""

from __future__ import annotations

from itertools import islice

from edgesink.memory.archive import Archive, Passage
from edgesink.memory.search import Found
from edgesink.memory.words import word_spans

LEANING = frozenset(
    ("he", "she", "it", "they", "his", "her", "hers", "its", "their", "theirs", "this", "that", "these", "those")
)


def leans(text: str) -> bool:
    """Whether a text begins with a word that stands for something said before it (in English)."""
    return any(word in LEANING for _, _, word in islice(word_spans(text), 1))


def neighbour(archive: Archive, passage: Passage) -> Passage | None:
    """The passage of the same turn that belongs to this one: the one before, which it leans on, else the one behind,
    which leans on it."""
    near = archive.get([passage.id - 1, passage.id + 1])
    before, behind = near.get(passage.id - 1), near.get(passage.id + 1)
    if leans(passage.text):
        return before if before is not None and _goes_with(before, passage) else None
    return behind if behind is not None and _goes_with(behind, passage) and leans(behind.text) else None


def with_neighbour(found: list[Found], other: Passage) -> list[Found]:
    """The best passage and another of its turn: read backwards, as they are quoted, they stand as they were said."""
    best, *rest = found
    along, rest = Found(other, best.score, best.way), [one for one in rest if one.passage.id != other.id]
    return [along, best, *rest] if other.id > best.passage.id else [best, along, *rest]


def _goes_with(other: Passage, passage: Passage) -> bool:
    """Whether they are of one turn; a standing instruction comes along by itself."""
    same = (other.stream, other.role, other.said) == (passage.stream, passage.role, passage.said)
    return same and not other.standing
