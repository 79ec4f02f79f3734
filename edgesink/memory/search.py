"""What of all that was said belongs to a message: by its words if they are rare ones, else by what it means.

Owns the choice: where the gate of the calibration does not take the message for one that asks, nothing comes back but
what holds all that is rare in a question; words speak only where the best passage holds most of what is rare in the
message, else meanings do, and of the few best by meaning the model itself judges; of passages about the same thing the
newest is right.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgesink.memory.archive import Archive, Passage
from edgesink.memory.calibration import Calibration
from edgesink.memory.likeness import search_likeness
from edgesink.memory.spoken import Spoken, weights_of
from edgesink.memory.words import Hit, content_words, search_words, weights

Way = Literal["words", "meaning"]
Gains = Callable[[Iterable[str]], Generator[float]]
"""How much likelier each passage makes the message, when it is asked for: `judging.Judge.gains`."""

HELD = 0.6  # of what is rare in a message, that the best passage must hold for words to speak
WHOLE = 0.99  # of what is rare in a question, that a passage holds which comes back whatever the gate says
FEWEST_WORDS = 2  # that say something, in a message for which words speak where no gate lets it through
CLOSE: dict[Way, float] = {"words": 0.6, "meaning": 0.85}
"""Of the best score: a newer passage about the same thing takes its place. What changed is told in other words."""
SAME = 0.5  # of the words of the shorter of two passages, that both must have to be about the same thing
ASSISTANT = 0.8  # what a score counts if the model said it
WIDE = 24  # passages that are looked at
NEAR = 0.8  # of the best score, that another passage must have to come along
JUDGED = 4  # passages that the model judges
WIDER = 0.75  # of the least likeness, for passages that are judged
OF_LIKENESS = 4.0  # what likeness counts, where a nat a token that the message becomes likelier by counts 1
OF_GATE = 2.0  # what counts how much surer the gate is than it must be that something told is asked for
SUREST = 0.4  # how much surer it counts at most
USUAL = 0.3  # nats a token that any passage makes a message likelier by: only what is beyond counts
LEAST_SUM = 0.7  # of all three, likeness being counted from the least
NEAR_SUM = 0.2  # what the best of likeness and gain may be ahead by for another passage to come along


@dataclass(frozen=True)
class AsFed:
    """What the stream made of a message."""

    spoken: Spoken  # its last tokens
    rows: np.ndarray  # float32 [n, d], their value rows of the calibration's layer
    gate_rows: np.ndarray  # float32 [n, d], of its gate's layer


@dataclass(frozen=True)
class Asked:
    """A message, and what the stream made of it; None searches by words only."""

    text: str
    fed: AsFed | None = None


@dataclass(frozen=True)
class Found:
    """A passage that belongs to a message."""

    passage: Passage
    score: float  # 0 … 1
    way: Way


def search(
    archive: Archive,
    asked: Asked,
    calibration: Calibration | None,
    stream: int,
    seen_from: int,
    count: int,
    judge: Gains | None = None,
) -> list[Found]:
    """The passages that belong to a message, the best first; none if none does.

    Args:
        archive: where.
        asked: the message.
        calibration: of the model; None searches by words only.
        stream: that is talked in.
        seen_from: position from which on it still sees its tokens: what is there is not brought back, nor what that
            replaces.
        count: most that are wanted.
        judge: of passages by the model; None goes by likeness alone.
    """
    with archive.reading() as connection:
        query = "SELECT id FROM passage WHERE stream = ? AND first >= ?"
        seen = frozenset(id_ for (id_,) in connection.execute(query, (stream, seen_from)))
        rarity = weights(connection, content_words(asked.text))
        by_words = search_words(connection, rarity, WIDE)
    fed, about = asked.fed if calibration is not None else None, _stems(asked.text)
    found = [one for one in _told(archive, by_words, "words") if one.score >= HELD]
    if calibration is not None and fed is not None and not calibration.lets_through(fed.gate_rows):
        is_plain = len(rarity) >= FEWEST_WORDS and is_question(asked.text)
        found = [one for one in found if is_plain and one.score >= WHOLE]
        if not found:
            return []
    if found and (fed is not None or len(rarity) >= FEWEST_WORDS):
        return _near([one for one in _newest(found, about) if one.passage.id not in seen])[:count]
    if calibration is None or fed is None:
        return []
    with archive.reading() as connection:
        by_meaning = search_likeness(
            connection, calibration, calibration.vectors(fed.rows), weights_of(fed.spoken.words(), rarity), WIDE
        )
    least = calibration.numbers.least
    enough = least if judge is None else WIDER * least
    found = [one for one in _told(archive, by_meaning, "meaning") if one.score >= enough]
    found = [one for one in _newest(found, about) if one.passage.id not in seen]
    if judge is None:
        return _near(found)[:count]
    return _judged(found[:JUDGED], judge, least, calibration.surer(fed.gate_rows))[:count]


def _near(found: list[Found]) -> list[Found]:
    """Without those that fit clearly worse than the best: a small model takes its answer from any of them."""
    return [one for one in found if one.score >= NEAR * found[0].score]


def _judged(found: list[Found], judge: Gains, least: float, surer: float) -> list[Found]:
    """Those that the model takes to belong to the message as well, the best by both first.

    They are judged in the order of their likeness, until none that is left could come back without making the message
    likelier than any passage does. The surer the gate is of the message, the less they must have.
    """
    if not found:
        return []
    likeness = [OF_LIKENESS * (one.score - least) for one in found]
    sums: list[float] = []
    with closing(judge(one.passage.text for one in found)) as gains:
        for alike in likeness:
            if sums and max(sums) - NEAR_SUM >= alike:
                break
            sums.append(alike + next(gains) - USUAL)
    enough = max(LEAST_SUM - OF_GATE * min(surer, SUREST), max(sums) - NEAR_SUM)
    ranked = sorted(zip(found, sums, strict=False), key=lambda pair: -pair[1])
    return [one for one, both in ranked if both >= enough]


def _told(archive: Archive, hits: Sequence[Hit], way: Way) -> list[Found]:
    """The passages found, but those that only ask; what the model said counts less."""
    passages = archive.get([hit.passage for hit in hits])
    found = [
        Found(passage, hit.score * (ASSISTANT if passage.role == "assistant" else 1), way)
        for hit in hits
        if (passage := passages.get(hit.passage)) is not None and not is_question(passage.text)
    ]
    return sorted(found, key=lambda one: (-one.score, -one.passage.id))


def is_question(text: str) -> bool:
    """Whether a passage tells nothing: its sentences all ask."""
    return text.rstrip("\"'”’)» \n").endswith(("?", "？")) and not any(mark in text[:-1] for mark in (". ", "! ", "。"))


def _newest(found: list[Found], about: set[str]) -> list[Found]:
    """In the place of each passage the newest about the same thing that fits nearly as well; the others are over.

    about: what the message is about. A newer passage that lacks a word of it is about something else: the blue clock
        where the red one was asked for.
    """
    chosen: list[Found] = []
    waiting = [(one, _stems(one.passage.text)) for one in found]
    while waiting:
        (best, stems), *rest = waiting
        least = CLOSE[best.way] * best.score
        is_rival = [
            one.score >= least and one.passage.role == best.passage.role and _same(stems, theirs, about)
            for one, theirs in rest
        ]
        rivals = [one for (one, _), rival in zip(rest, is_rival, strict=True) if rival]
        waiting = [one for one, rival in zip(rest, is_rival, strict=True) if not rival]
        chosen.append(max([best, *rivals], key=lambda one: one.passage.id))
    return chosen


def _stems(text: str) -> set[str]:
    """The words of a text that say what it is about, their beginnings."""
    return {word[:6] for word in content_words(text)}


def _same(mine: set[str], theirs: set[str], about: set[str]) -> bool:
    """Whether two passages are about the same thing: they share most of their words, and those that are asked about."""
    return mine & about <= theirs and len(mine & theirs) >= max(1, SAME * min(len(mine), len(theirs)))
