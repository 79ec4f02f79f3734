"""Finds out how meanings are compared with one model: the layer that finds paraphrases, and when to look for nothing.

Owns the measurement: invented notes among chatter are told to a stream in turns, questions are fed and taken back, and
the value rows of every layer are tried. The layer is the one that finds most notes from other words than their own. The
gate is linear: it tells what asks for something told from small talk and from what is being told.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from edgesink.errors import BadBundle
from edgesink.memory.asking import demanded_system
from edgesink.memory.calibration import Calibration, Numbers, name_of, scale_of, standardised
from edgesink.memory.likeness import likeness
from edgesink.memory.sample_talk import Note, asides, chatter, notes
from edgesink.memory.spoken import Spoken, weights_of
from edgesink.runtime.session import Stream
from edgesink.runtime.turn_feed import TurnFeed, Unfed

CHATTER = 160  # passages that no question is about
PASSAGES = len(notes("calibrate")) + CHATTER  # that are fed
STATEMENTS = 30  # of chatter, each a message of its own
ANSWER = "Okay."
FOLDS = 5
RIDGE = 30.0
FALSE = 0.02  # share of small talk that may pass
MISSED = 0.02  # share of what asks that may not pass where a threshold is raised


@dataclass(frozen=True)
class Fed:
    """Something that was said to the stream, with the value rows of its tokens."""

    spoken: Spoken
    rows: np.ndarray  # float16 [L, n, d]
    note: int = -1  # which of the notes it is, or asks for

    @cached_property
    def words(self) -> list[str]:
        """For every token the word that it is part of."""
        return self.spoken.words()


@dataclass(frozen=True)
class Samples:
    """All that a calibration looks at."""

    passages: list[Fed]
    questions: list[Fed]  # about notes, in other words
    asking: list[Fed]  # these, those in the notes' own words, and requests
    small_talk: list[Fed]
    statements: list[Fed]  # messages that tell something


def calibrate(stream: Stream, report: Callable[[int, int], None] = lambda done, whole: None) -> Calibration:
    """Measure a model; `stream` is at its start, and reset at the end.

    Args:
        stream: of the bundle.
        report: called with how many messages were fed, and of how many.
    Raises:
        BadBundle: the model is not for conversations.
    """
    samples = _feed(stream, report)
    stream.reset()
    layers = len(samples.passages[0].rows)
    rarity = _rarity(samples)
    scored = [_found(samples, layer, rarity) for layer in range(layers)]
    layer = max(range(layers), key=lambda at: (scored[at].mrr, -at))
    gates = [_gate(samples, at) for at in range(layers)]
    gate_layer = max(range(layers), key=lambda at: (gates[at].quality, -at))
    gate, best = gates[gate_layer], scored[layer]
    least = float(np.quantile(best.right, 0.05)) if len(best.right) else 1.0
    mean, scale = _scale(samples, layer)
    arrays = mean, scale, gate.mean, gate.direction, gate.offset
    of_vectors = (np.array(layer), mean, scale)  # what is kept stays comparable if only the gate becomes another
    digest = hashlib.sha256(b"".join(array.tobytes() for array in of_vectors)).hexdigest()[:16]
    asks, is_question = map(float, gate.least)
    numbers = Numbers(layer, gate_layer, asks, is_question, least, float(np.mean(best.first)), 0.0)
    made = Calibration(name_of(stream.manifest, digest), numbers, *arrays)
    passed = [
        first and score >= least and made.lets_through(one.rows[gate_layer].astype(np.float32))
        for one, first, score in zip(samples.questions, best.first, best.scores, strict=True)
    ]
    return replace(made, numbers=replace(numbers, passed=float(np.mean(passed))))


def _feed(stream: Stream, report: Callable[[int, int], None]) -> Samples:
    """Tell the notes and the chatter in turns, then ask."""
    if stream.manifest.turns is None:
        raise BadBundle(f"{stream.manifest.name}", "a chat model", "a memory is for conversations")
    teller = Teller(stream, range(len(stream.manifest.states) // 2))
    told: list[tuple[str, int]] = [(note.text, i) for i, note in enumerate(notes("calibrate"))]
    talk = chatter(seed=1)
    told += [(" ".join(itertools.islice(talk, 2)), -1) for _ in range(CHATTER)]
    random.Random(1).shuffle(told)
    asked = _asked(notes("calibrate"))
    whole = len(told) + len(asked)
    passages = []
    for text, note in told:
        passages.append(teller.tell(text, note))
        report(len(passages), whole)
    fed = []
    for _, text, note in asked:
        fed.append(teller.ask(text, note))
        report(len(told) + len(fed), whole)
    by_kind = {kind: [one for (k, _, _), one in zip(asked, fed, strict=True) if k == kind] for kind in _KINDS}
    asking = by_kind["own"] + by_kind["other"] + by_kind["ask"]
    return Samples(passages, by_kind["other"], asking, by_kind["small"], by_kind["told"])


_KINDS = ("own", "other", "ask", "small", "told")


def _asked(about: Sequence[Note]) -> list[tuple[str, str, int]]:
    """Kind, text and note of every message that is asked and taken back."""
    asked = [("own", note.own, i) for i, note in enumerate(about)]
    asked += [("other", note.other, i) for i, note in enumerate(about)]
    asked += [(kind, text, -1) for kind in ("ask", "small", "told") for text in asides(kind)]
    return asked + [("told", text, -1) for text in itertools.islice(chatter(seed=2), STATEMENTS)]


class Teller:
    """Feeds messages to a stream in turns, and reads the value rows of some layers."""

    def __init__(self, stream: Stream, layers: Sequence[int]) -> None:
        assert stream.manifest.turns is not None
        system = demanded_system(stream.manifest.turns)
        self._stream = stream
        self._feed = TurnFeed(stream.manifest, stream.manifest.turns, stream.tokenizer, system)
        self._answer = tuple(stream.tokenizer.encode(ANSWER))
        self._unfed = Unfed(stream.position)
        self._layers = layers

    def tell(self, text: str, note: int) -> Fed:
        """A message that stays, with an answer."""
        unfed = self._feed.next(self._unfed, text, self._stream.position)
        self._stream.feed([*unfed.answer, *unfed.turn])
        fed = self._fed(unfed, note)
        self._unfed = Unfed(self._stream.position, self._answer)
        return fed

    def ask(self, text: str, note: int) -> Fed:
        """A message that is taken back."""
        unfed = self._feed.next(Unfed(self._stream.position), text, self._stream.position)
        ids = unfed.turn[: unfed.before + unfed.message_size]
        self._stream.feed(ids)
        fed = self._fed(unfed, note)
        self._stream.rewind(len(ids))
        return fed

    def _fed(self, unfed: Unfed, note: int) -> Fed:
        first, size = unfed.message_start, unfed.message_size
        rows = [self._stream.values(layer, first, first + size) for layer in self._layers]
        spoken = Spoken.of(self._stream.tokenizer, unfed.turn[unfed.before : unfed.before + size])
        return Fed(spoken, np.stack(rows).astype(np.float16), note)


@dataclass(frozen=True)
class _Found:
    """How well a layer finds notes from questions in other words."""

    first: list[bool]  # for each question, its note came first
    scores: list[float]  # the best passage's
    mrr: float  # mean of 1 / the rank of the right one

    @property
    def right(self) -> list[float]:
        """The scores of those that came first and were right."""
        return [score for score, first in zip(self.scores, self.first, strict=True) if first]


def _found(samples: Samples, layer: int, rarity: dict[str, float]) -> _Found:
    """By a layer; `rarity` is `_rarity` of the samples, and belongs to all layers."""
    mean, scale = _scale(samples, layer)
    kept = [np.array([bool(word) for word in one.words]) for one in samples.passages]
    has = [i for i, keep in enumerate(kept) if keep.any()]
    passages = np.concatenate([samples.passages[i].rows[layer][kept[i]] for i in has]).astype(np.float32)
    passages = standardised(passages, mean, scale)
    begins = np.concatenate([[0], np.cumsum([kept[i].sum() for i in has])[:-1]])
    about = np.array([samples.passages[i].note for i in has])
    first, scores, ranks = [], [], []
    for question in samples.questions:
        weights = weights_of(
            question.words, {word: rarity.get(word, max(rarity.values())) for word in question.words if word}
        )
        vectors = standardised(question.rows[layer].astype(np.float32), mean, scale)
        score = likeness(passages, begins, vectors, weights)
        order = np.argsort(-score, kind="stable")
        rank = int(np.flatnonzero(about[order] == question.note)[0])
        first.append(rank == 0)
        scores.append(float(score[order[0]]))
        ranks.append(1 / (rank + 1))
    return _Found(first, scores, float(np.mean(ranks)))


def _rarity(samples: Samples) -> dict[str, float]:
    """How rare each word of the passages is among them."""
    count: dict[str, int] = {}
    for passage in samples.passages:
        for word in set(passage.words):
            count[word] = count.get(word, 0) + 1
    passages = len(samples.passages)
    return {word: math.log((passages + 1) / (having + 0.5)) for word, having in count.items()}


def _scale(samples: Samples, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """`scale_of` the value rows that a layer has of the passages."""
    return scale_of(np.concatenate([one.rows[layer] for one in samples.passages]).astype(np.float32))


@dataclass(frozen=True)
class _Gate:
    """Two directions in the mean value row of a message."""

    mean: np.ndarray
    direction: np.ndarray  # [2, d]
    offset: np.ndarray  # [2]
    least: np.ndarray  # [2]
    quality: float  # share of what asks that passes both, left out of what the directions were made with


def _pooled(fed: Fed, layer: int) -> np.ndarray:
    return fed.rows[layer].astype(np.float32).mean(axis=0)


def _gate(samples: Samples, layer: int) -> _Gate:
    asking, small, told = (
        np.stack([_pooled(one, layer) for one in fed])
        for fed in (samples.asking, samples.small_talk, samples.passages + samples.statements)
    )
    mean = np.concatenate([asking, small, told]).mean(axis=0)
    whole = [_direction(asking - mean, other - mean) for other in (small, told)]
    passes, least = np.ones(len(asking), bool), []
    for other in (small, told):
        mine, theirs = _left_out(asking - mean, other - mean)
        least.append(_between(mine, theirs))
        passes &= mine >= least[-1]
    directions = np.stack([direction for direction, _ in whole]).astype(np.float32)
    offsets = np.array([offset for _, offset in whole], np.float32)
    return _Gate(mean, directions, offsets, np.array(least), float(passes.mean()))


def _between(mine: np.ndarray, theirs: np.ndarray) -> float:
    """A threshold that few of `theirs` pass: where hardly any of `mine` is near it, halfway to those.

    In another conversation all numbers shift a little.
    """
    false, missed = float(np.quantile(theirs, 1 - FALSE)), float(np.quantile(mine, MISSED))
    return max(false, (false + missed) / 2)


def _direction(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, float]:
    """Ridge regression to +1 for rows of `one` and -1 for those of `other`, both counting the same: w and b."""
    rows = np.concatenate([one, other]).astype(np.float64)
    goal = np.concatenate([np.ones(len(one)), -np.ones(len(other))])
    weight = np.concatenate([np.full(len(one), 0.5 / len(one)), np.full(len(other), 0.5 / len(other))]) * len(rows)
    scale = 1 / np.maximum(rows.std(axis=0), 1e-6)
    middle = weight @ rows / len(rows)
    centred = (rows - middle) * scale
    inverse = (centred * weight[:, None]).T @ centred + RIDGE * np.eye(rows.shape[1])
    direction = np.linalg.solve(inverse, (centred * weight[:, None]).T @ goal) * scale
    return direction, float(-direction @ middle)


def _left_out(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a direction says of rows that it was not made with, a fold at a time."""
    mine, theirs = np.zeros(len(one)), np.zeros(len(other))
    for fold in range(FOLDS):
        out, out_other = np.arange(len(one)) % FOLDS == fold, np.arange(len(other)) % FOLDS == fold
        direction, offset = _direction(one[~out], other[~out_other])
        mine[out] = one[out] @ direction + offset
        theirs[out_other] = other[out_other] @ direction + offset
    return mine, theirs
