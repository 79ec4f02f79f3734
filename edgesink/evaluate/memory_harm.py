"""What it costs when something comes back that does not belong to a message.

Owns the measurement: good answers to messages for which nothing that was told matters, and how much more they surprise
the model when a passage comes back with the message. That is harm without a search: how often it happens is counted
elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgesink.memory.memory import QUOTED, Memory
from edgesink.memory.recalling import Way, fitting, quoted
from edgesink.memory.sample_talk import notes, replies
from edgesink.runtime.chat import Chat


@dataclass(frozen=True)
class Harm:
    """How much a way of bringing back raises the perplexity of answers that do not need it."""

    rise: float  # 0.01: by 1 %
    error: float  # standard error of it, over answers
    answers: int
    tokens: int


def harm(
    chat: Chat,
    memory: Memory,
    way: Way,
    passages: int = QUOTED,
    report: Callable[[int, int], None] = lambda done, whole: None,
) -> Harm:
    """Measure one way of bringing back; the conversation is as it was afterwards.

    Args:
        chat: in the middle of a conversation, with a journal.
        memory: its memory, which holds notes of `sample_talk`.
        way: "pinned" only for a memory that keeps rows for it, and for one passage.
        passages: that come back at a time.
        report: called with how many answers were read, and of how many.
    Raises:
        BadOption: nothing can be pinned.
    """
    about = [passage for passage in memory.archive.export() if passage.role == "user"]
    told = {note.text for note in notes("evaluate")}
    candidates = [passage for passage in about if any(text in passage.text for text in told)]
    draw = np.random.default_rng(3)
    differences, sizes = [], []
    for number, (message, answer) in enumerate(replies()):
        chosen = [candidates[at] for at in draw.choice(len(candidates), passages, replace=False)]
        without = nats(chat, message, answer)
        if way == "quoted":
            _, kept = fitting(chat.stream.tokenizer, [], chosen, memory.budget)
            with_ = nats(chat, quoted(message, [], kept), answer)
        else:
            with memory.pinned_for(chat, chosen[:1]):
                with_ = nats(chat, message, answer)
        differences.append(float((with_ - without).sum()))
        sizes.append(len(with_))
        report(number + 1, len(replies()))
    return _pooled(differences, sizes)


def _pooled(differences: Sequence[float], sizes: Sequence[int]) -> Harm:
    """The rise over all tokens, and its standard error by the ratio of sums over answers."""
    tokens, answers = sum(sizes), len(sizes)
    mean = sum(differences) / tokens
    rest = np.array(differences) - mean * np.array(sizes)
    error = math.sqrt(float((rest**2).sum()) * answers / (answers - 1)) / tokens
    return Harm(math.exp(mean) - 1, math.exp(mean) * error, answers, tokens)


def nats(chat: Chat, message: str, answer: str) -> np.ndarray:
    """How much each token of an answer to a message surprises the model, float64 [n]; all is as it was afterwards."""
    stream = chat.stream
    assert stream.journal is not None
    unfed = chat.next_turn(message)
    ids = stream.tokenizer.encode(answer)
    stream.journal.checkpoint(stream.position)
    logits = stream.feed((*unfed.answer, *unfed.turn))
    found = []
    for id_ in ids:
        scores = np.asarray(logits, np.float64).reshape(-1)
        top = scores.max()
        found.append(top + math.log(float(np.exp(scores - top).sum())) - scores[id_])
        logits = stream.step(id_)
    stream.go_back()
    return np.array(found)
