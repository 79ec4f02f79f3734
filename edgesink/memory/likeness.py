"""Searching by meaning: the question's own value rows against those of passages, token by token.

A passage is as like a question as the question's tokens are, weighted by how rare they are, to whatever token of the
passage is most like each (max-sim), and a little as the means of both are alike. All passages are compared by their
means (`packs`), and the best few hundred exactly. Owns this arithmetic; which passages may be found is the caller's.
"""

from __future__ import annotations

import sqlite3

import numpy as np

from edgesink.memory.calibration import Calibration
from edgesink.memory.packs import eight_bits, read_means
from edgesink.memory.words import Hit

OF_MEANS = 0.5  # what the likeness of means counts, where that of tokens counts 1
EXACT = 400  # passages that are compared exactly


def search_likeness(
    connection: sqlite3.Connection,
    calibration: Calibration,
    question: np.ndarray,
    weights: np.ndarray,
    count: int,
) -> list[Hit]:
    """The passages most like a question, the best first.

    Args:
        connection: of the archive.
        calibration: of the model that the question was fed to.
        question: float32 [q, d], its vectors, of length 1.
        weights: float32 [q], what each counts, summing to 1.
        count: most that are wanted.
    """
    row = connection.execute("SELECT id FROM space WHERE name = ?", (calibration.name,)).fetchone()
    counts = weights > 0
    if row is None or not counts.any():
        return []
    question, weights = question[counts], weights[counts]
    rough = _rough(connection, row[0], weights @ question)
    exact = _exact(connection, rough, question, weights)
    return sorted(exact, key=lambda hit: -hit.score)[:count]


def _rough(connection: sqlite3.Connection, space: int, question: np.ndarray) -> dict[int, float]:
    """Passages that are worth an exact comparison, and the cosine of their means with that of the question [d]."""
    found, scores = [], []
    question = question / max(float(np.linalg.norm(question)), 1e-9)
    for means in read_means(connection, space):
        if means.vectors.shape[1] != len(question):
            raise sqlite3.DatabaseError(f"a mean has {means.vectors.shape[1]} numbers, not {len(question)}")
        found.append(means.passages)
        scores.append(_cosines(means.vectors, question[:, None])[:, 0])
    if not found:
        return {}
    passages, score = np.concatenate(found), np.concatenate(scores)
    best = np.argpartition(score, -EXACT)[-EXACT:] if len(passages) > EXACT else np.arange(len(passages))
    return {int(passages[at]): float(score[at]) for at in best}


def _exact(
    connection: sqlite3.Connection, rough: dict[int, float], question: np.ndarray, weights: np.ndarray
) -> list[Hit]:
    """As `likeness`, of passages whose means are compared already."""
    marks = ",".join("?" * len(rough))
    query = f"SELECT passage, tokens FROM vectors WHERE passage IN ({marks}) ORDER BY passage"
    rows = connection.execute(query, list(rough)).fetchall()
    if not rows:
        return []
    width = question.shape[1]
    tokens = eight_bits([blob for _, blob in rows], "a passage's vectors", width)
    begins = np.cumsum([0, *(len(blob) // width for _, blob in rows[:-1])])
    of_means = np.array([rough[passage] for passage, _ in rows], np.float32)
    scores = _scores(_cosines(tokens, question.T), begins, weights, of_means)
    return [Hit(passage, float(score)) for (passage, _), score in zip(rows, scores, strict=True)]


def _cosines(vectors: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """Of int8 vectors [n, d] of any length with vectors of length 1 [d, q]: float32 [n, q]."""
    floats = vectors.astype(np.float32)
    squares = np.einsum("nd,nd->n", floats, floats)
    cosines: np.ndarray = (floats @ questions) / np.sqrt(np.maximum(squares, 1))[:, None]
    return cosines


def likeness(tokens: np.ndarray, begins: np.ndarray, question: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How like each passage is to a question, float32 [p], at most 1.

    Args:
        tokens: of the passages one after the other, float32 [n, d], of length 1.
        begins: where each passage begins, int64 [p].
        question: float32 [q, d], of length 1.
        weights: float32 [q], summing to 1.
    """
    means = np.add.reduceat(tokens, begins, axis=0)
    asked = weights @ question
    lengths = np.maximum(np.linalg.norm(means, axis=1) * np.linalg.norm(asked), 1e-9)
    return _scores(tokens @ question.T, begins, weights, (means @ asked) / lengths)


def _scores(cosines: np.ndarray, begins: np.ndarray, weights: np.ndarray, of_means: np.ndarray) -> np.ndarray:
    """Of each passage [p]: each question token's best cosine [n, q] in it, weighted, and the cosine of the means."""
    best = np.maximum.reduceat(cosines, begins, axis=0) @ weights
    scores: np.ndarray = (best + OF_MEANS * of_means) / (1 + OF_MEANS)
    return scores
