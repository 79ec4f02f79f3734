"""Searching by meaning: the question's own value rows against those of passages, token by token.

A passage is as like a question as the question's tokens are, weighted by how rare they are, to whatever token of the
passage is most like each (max-sim), and a little as the means of both are alike. All passages are compared by their
means (`packs`), and the best few hundred exactly. Owns this arithmetic; which passages may be found is the caller's.
"""

from __future__ import annotations

import sqlite3

import numpy as np

from edgesink.memory.calibration import FULL, Calibration
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


def _rough(
    connection: sqlite3.Connection,
    space: int,
    question: np.ndarray,
) -> list[int]:
    """The numbers of passages that are worth an exact comparison, by their means and that of the question [d]."""
    found, scores = [], []
    for means in read_means(connection, space):
        if means.vectors.shape[1] != len(question):
            raise sqlite3.DatabaseError(f"a mean has {means.vectors.shape[1]} numbers, not {len(question)}")
        vectors = means.vectors.astype(np.float32)
        length = np.sqrt(np.einsum("pd,pd->p", vectors, vectors))
        found.append(means.passages)
        scores.append(vectors @ question / np.maximum(length, 1))
    if not found:
        return []
    passages, score = np.concatenate(found), np.concatenate(scores)
    if len(passages) > EXACT:
        passages = passages[np.argpartition(score, -EXACT)[-EXACT:]]
    return [int(passage) for passage in np.sort(passages)]


def _exact(connection: sqlite3.Connection, passages: list[int], question: np.ndarray, weights: np.ndarray) -> list[Hit]:
    if not passages:
        return []
    marks = ",".join("?" * len(passages))
    rows = connection.execute(
        f"SELECT passage, tokens FROM vectors WHERE passage IN ({marks}) ORDER BY passage", passages
    ).fetchall()
    if not rows:
        return []
    width = question.shape[1]
    tokens = eight_bits([blob for _, blob in rows], "a passage's vectors", width).astype(np.float32)
    tokens /= np.maximum(np.linalg.norm(tokens, axis=1, keepdims=True), 1 / FULL)
    sizes = np.array([len(blob) // width for _, blob in rows])
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    scores = likeness(tokens, begins, question, weights)
    return [Hit(passage, float(score)) for (passage, _), score in zip(rows, scores, strict=True)]


def likeness(tokens: np.ndarray, begins: np.ndarray, question: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How like each passage is to a question, float32 [p], at most 1.

    Args:
        tokens: of the passages one after the other, float32 [n, d], of length 1.
        begins: where each passage begins, int64 [p].
        question: float32 [q, d], of length 1.
        weights: float32 [q], summing to 1.
    """
    best = np.maximum.reduceat(tokens @ question.T, begins, axis=0) @ weights  # [p]
    means = np.add.reduceat(tokens, begins, axis=0)
    asked = weights @ question
    lengths = np.maximum(np.linalg.norm(means, axis=1) * np.linalg.norm(asked), 1e-9)
    score: np.ndarray = (best + OF_MEANS * (means @ asked) / lengths) / (1 + OF_MEANS)
    return score
