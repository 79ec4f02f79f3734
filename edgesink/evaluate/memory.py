"""What a memory finds and what the model makes of it, by how far back something was told.

Owns the task: one long conversation in which facts are told at given distances from its end, in windows, among chatter;
at the end every question is asked, answered, and taken back, once for every way of bringing back. Facts are lines
(whose a thing is, after the paper's StreamEval), notes asked in their own words and in others, and things that were
told twice. Scores: the right passage came back; the answer is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from typing import Literal, get_args

import numpy as np

from edgesink.errors import BadOption
from edgesink.memory.memory import FEWEST_ROWS, Memory, can_reserve
from edgesink.memory.recalling import Way, quotation
from edgesink.memory.sample_talk import changes, chatter, has_answer, never_said, notes, small_talk
from edgesink.runtime.chat import Chat
from edgesink.sample_text import lines

Kind = Literal["lines", "own words", "other words", "changed", "never said"]
Arm = Literal["nothing", "quoted", "pinned"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SENTENCES = 3  # of chatter in one message
ANSWERS = (
    "Thank you for telling me, I will keep it in mind.", "I see. That sounds like quite a day.",
    "Good to know. Is there anything else on your mind?", "That is nice to hear.",
    "I understand. Let me know if I can help with it.", "Oh, I can imagine how that felt.",
    "Noted. How did the rest of the day go?", "That makes sense, thank you for sharing it.",
)  # fmt: skip
WORLD = (
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("How many legs does an insect have?", "An insect has six legs."),
    ("Who wrote Faust?", "Faust was written by Johann Wolfgang von Goethe."),
    ("Which colour do you get from blue and yellow?", "Blue and yellow make green."),
    ("What do bees make?", "Bees make honey."),
    ("When was the first landing on the moon?", "The first landing on the moon was in 1969."),
)
"""The last that is talked about before the questions, so that the window shows how questions are answered."""
LONGEST_ANSWER = 24  # tokens
PAIR = 80  # tokens of a fact and a sentence of chatter, with their answers, about
UNKNOWN = re.compile(
    r"(don't|do not|didn't|did not|haven't|have not|doesn't|hasn't|isn't|not|no|never) (\w+ )?"
    r"(know|mention|told|tell|say|said|information|sure|specif|provid|have|record|recall|remember|clear|given|aware)"
    r"|unknown|unable|cannot|can't",
    re.IGNORECASE,
)
"""How an answer says that it is not known."""


@dataclass(frozen=True)
class Question:
    """What is asked at the end."""

    kind: Kind
    windows: int  # back, where the fact was told; 0: nowhere
    text: str
    evidence: str  # what was told; "" if nothing was
    answers: tuple[str, ...]  # one of them must be in the answer
    stale: str = ""  # must not be


@dataclass(frozen=True)
class Answered:
    """A question with one way of bringing back."""

    question: Question
    arm: Arm
    found: bool  # the right passage came back
    recalled: bool  # any came back
    right: bool
    text: str
    search_ms: float
    bring_ms: float


@dataclass(frozen=True)
class Score:
    """Shares for one kind of question at one distance."""

    kind: Kind
    windows: int
    arm: Arm
    questions: int
    found: float
    right: float


@dataclass(frozen=True)
class Told:
    """Messages of one distance, and what is asked about them at the end."""

    windows: int
    messages: list[str]
    questions: list[Question]


def plan(distances: Sequence[int], each: int) -> list[Told]:
    """What is told how many windows before the end, the farthest first, and the questions.

    Args:
        distances: in windows.
        each: lines, and notes, at each distance; there are 64 notes, and they are not told twice.
    """
    told, made = [], iter(notes("evaluate"))
    facts, changed = lines(seed=7), changes()
    far = sorted(distances, reverse=True)
    for at, windows in enumerate(far):
        messages, questions = [], []
        for line in islice(facts, each):
            text = f"The {line.thing} belongs to {line.owner}."
            messages.append(text)
            questions.append(Question("lines", windows, f"Who does the {line.thing} belong to?", text, (line.owner,)))
        for note in islice(made, each):
            messages.append(note.text)
            questions.append(Question("own words", windows, note.own, note.text, note.answers))
            questions.append(Question("other words", windows, note.other, note.text, note.answers))
        for number, change in enumerate(changed):
            if number % len(far) == at:  # told here, and anew at the next distance, or here
                questions.append(
                    Question("changed", windows, change.question, change.new, (change.answer,), change.stale)
                )
                messages.insert(0, change.old)
                messages.append(change.new)
        told.append(Told(windows, messages, questions))
    told[-1].questions.extend(Question("never said", 0, text, "", ()) for text in never_said())
    return told


def measure(
    chat: Chat,
    memory: Memory,
    told: Sequence[Told],
    arms: Sequence[Arm],
    report: Callable[[int, int], None] = lambda done, whole: None,
) -> Iterator[Answered]:
    """Tell everything, then ask; gives each answer as it comes.

    Args:
        chat: at its beginning, with `memory`, and a journal that can take an exchange back.
        memory: made with the way "pinned" if that is among the arms.
        told: by `plan`.
        arms: ways to be compared.
        report: called with tokens fed and answers given, weighted alike, and how many there will be.
    Raises:
        BadOption: one of the ways is "pinned", and the bundle cannot pin enough rows.
    """
    sinks, most = chat.stream.sinks, chat.stream.manifest.stream.max_sinks
    if "pinned" in arms and not can_reserve(sinks, most):
        raise BadOption(
            f"a bundle that pins {most} rows at most, {sinks} of them for its sinks",
            f"{sinks + FEWEST_ROWS} or more for the way pinned", "leave out that way: --ways nothing,quoted",
        )  # fmt: skip
    questions = [question for group in told for question in group.questions]
    capacity = chat.stream.capacity
    messages = sum(len(group.messages) for group in told)
    whole = told[0].windows * capacity + messages * PAIR + len(questions) * len(arms) * LONGEST_ANSWER
    talk = chatter(seed=11)
    nearer = [*(group.windows for group in told[1:]), 0]
    for group, windows in zip(told, nearer, strict=True):
        for message in group.messages:
            tell(chat, message)
            tell(chat, next(talk))
            report(chat.stream.position, whole)
        end = chat.stream.position + (group.windows - windows) * capacity
        while chat.stream.position < end:
            tell(chat, " ".join(islice(talk, SENTENCES)))
            report(chat.stream.position, whole)
    for asked, answer in WORLD:
        tell(chat, asked, answer)
    done = chat.stream.position
    whole = done + len(questions) * len(arms) * LONGEST_ANSWER
    for question in questions:
        for arm in arms:
            yield _ask(chat, memory, question, arm)
            done += LONGEST_ANSWER
            report(done, whole)
    chat.memory = memory


def tell(chat: Chat, message: str, answer: str = "") -> None:
    """A message whose answer is not the model's own; "" takes one of ANSWERS, the next for each message."""
    for _ in chat.answer(message, 0):
        pass
    chat.stream.feed(chat.stream.tokenizer.encode(answer or ANSWERS[len(chat.turns) // 2 % len(ANSWERS)]))


def _ask(chat: Chat, memory: Memory, question: Question, arm: Arm) -> Answered:
    """One answer, which is taken back."""
    chat.memory = None if arm == "nothing" else memory
    memory.recalled = None
    if arm != "nothing":
        memory.way = arm
    text = "".join(token.text for token in chat.answer(question.text, LONGEST_ANSWER))
    recalled = memory.recalled
    chat.undo()
    passages: list[str] = [one.passage.text for one in recalled.found] if recalled else []
    found = bool(question.evidence) and any(question.evidence in passage for passage in passages)
    return Answered(
        question, arm, found, bool(passages), is_right(question, text), text,
        recalled.search_ms if recalled else 0.0, recalled.bring_ms if recalled else 0.0,
    )  # fmt: skip


def is_right(question: Question, text: str) -> bool:
    """Whether an answer is right; of what was never said, whether it says so."""
    if question.kind == "never said":
        return bool(UNKNOWN.search(text))
    is_stale = len(question.stale) > 1 and question.stale.lower() in f" {text.lower()} "
    return has_answer(question.answers, text) and not is_stale


def scores(answered: Sequence[Answered]) -> list[Score]:
    """Shares by kind, distance and way."""
    table = []
    keys = {(KINDS.index(one.question.kind), one.question.windows, one.arm): None for one in answered}
    for place, windows, arm in sorted(keys, key=lambda key: key[:2]):
        here = [a for a in answered if (a.question.kind, a.question.windows, a.arm) == (KINDS[place], windows, arm)]
        found, right = (float(np.mean([getattr(one, name) for one in here])) for name in ("found", "right"))
        table.append(Score(KINDS[place], windows, arm, len(here), found, right))
    return table


def false_recalls(chat: Chat, memory: Memory) -> list[str]:
    """The messages of small talk for which something came back; none of them is answered."""
    found: list[str] = []
    for message in small_talk():
        memory.recalled = None
        with memory.around(chat, message):
            if memory.recalled is not None and memory.recalled.found:
                found.append(message)
    return found


def guard(chat: Chat, memory: Memory, arm: Way, tokens: int = 256) -> tuple[float, float]:
    """Mean nats of a text that has nothing to do with what came back, without it and with it."""
    stream, words = chat.stream, stream_text(chat)
    ids = list(islice(words, tokens + 1))
    (newest,) = memory.archive.newest(1)
    (passage,) = memory.archive.newest(1, before=newest.id // 2)
    without = _nats(chat, ids, [])
    if arm == "quoted":
        return without, _nats(chat, ids, stream.tokenizer.encode(quotation(stream.tokenizer, [], [passage]) + "\n\n"))
    with memory.pinned_for(chat, [passage]):
        return without, _nats(chat, ids, [])


def stream_text(chat: Chat) -> Iterator[int]:
    """Ids of chatter without end."""
    for sentence in cycle([*islice(chatter(seed=23), 400)]):
        yield from chat.stream.tokenizer.encode(f"{sentence}\n")


def _nats(chat: Chat, ids: Sequence[int], before: Sequence[int]) -> float:
    """Mean nats of ids[1:], behind other ids that do not count; the stream is as it was afterwards."""
    stream = chat.stream
    assert stream.journal is not None
    stream.journal.checkpoint(stream.position)
    if before:
        stream.feed(before)
    found = []
    for given, wanted in pairwise(ids):
        logits = stream.step(given).astype(np.float64)
        top = logits.max()
        found.append(top + np.log(np.exp(logits - top).sum()) - logits[wanted])
    stream.go_back()
    return float(np.mean(found))
