"""Searching by meaning: the question's own value rows against those of passages, token by token.

A passage is as like a question as the question's tokens are, weighted by how rare they are, to whatever token of the
passage is most like each (max-sim). All passages are compared roughly by cells (`cells`), and the best few hundred
exactly. Owns this arithmetic; which passages may be found is the caller's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import numpy as np

from edgesink.memory.calibration import FULL, Calibration
from edgesink.memory.cells import joined, likely, read_codes
from edgesink.memory.words import Hit

NEAR_CELLS = 16  # of a question's token
EXACT = 200  # passages that are compared exactly


def search_likeness(
    connection: sqlite3.Connection,
    calibration: Calibration,
    question: np.ndarray,
    weights: np.ndarray,
    is_sought: Callable[[np.ndarray], np.ndarray],
    count: int,
) -> list[Hit]:
    """The passages most like a question, the best first.

    Args:
        connection: of the archive.
        calibration: of the model that the question was fed to.
        question: float32 [q, d], its vectors, of length 1.
        weights: float32 [q], what each counts, summing to 1.
        is_sought: of numbers of passages int64 [n], which of them are looked for: bool [n].
        count: most that are wanted.
    """
    row = connection.execute("SELECT id FROM space WHERE name = ?", (calibration.name,)).fetchone()
    counts = weights > 0
    if row is None or not counts.any():
        return []
    question, weights = question[counts], weights[counts]
    rough = _rough(connection, row[0], calibration, question, weights, is_sought)
    exact = _exact(connection, rough, question, weights)
    return sorted(exact, key=lambda hit: -hit.score)[:count]


def _rough(
    connection: sqlite3.Connection,
    space: int,
    calibration: Calibration,
    question: np.ndarray,
    weights: np.ndarray,
    is_sought: Callable[[np.ndarray], np.ndarray],
) -> list[int]:
    """The numbers of passages that are worth an exact comparison."""
    scores = question @ calibration.centres.T  # [q, cells]
    near = min(NEAR_CELLS, scores.shape[1])
    least = np.partition(scores, -near, axis=1)[:, -near, None]
    scores = np.where(scores >= least, np.maximum(scores, 0), 0) * weights[:, None]
    rough = np.ceil(scores * (255 / max(float(scores.max()), 1e-9))).astype(np.uint8)
    found, values = [], []
    for codes in joined(read_codes(connection, space)):
        places, score = likely(codes, rough)
        found.append(codes.passages[places])
        values.append(score)
    if not found:
        return []
    passages, score = np.concatenate(found), np.concatenate(values)
    sought = is_sought(passages)
    passages, score = passages[sought], score[sought]
    if len(passages) > EXACT:
        passages = passages[np.argpartition(score, -EXACT)[-EXACT:]]
    return np.sort(passages).tolist()


def _exact(connection: sqlite3.Connection, passages: list[int], question: np.ndarray, weights: np.ndarray) -> list[Hit]:
    if not passages:
        return []
    marks = ",".join("?" * len(passages))
    rows = connection.execute(
        f"SELECT passage, tokens FROM vectors WHERE passage IN ({marks}) ORDER BY passage", passages
    ).fetchall()
    width = question.shape[1]
    tokens = np.frombuffer(b"".join(blob for _, blob in rows), np.int8).reshape(-1, width).astype(np.float32)
    tokens /= np.maximum(np.linalg.norm(tokens, axis=1, keepdims=True), 1 / FULL)
    sizes = np.array([len(blob) // width for _, blob in rows])
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    best = np.maximum.reduceat(tokens @ question.T, begins, axis=0)  # [passages, q]
    return [Hit(passage, float(score)) for (passage, _), score in zip(rows, best @ weights, strict=True)]
