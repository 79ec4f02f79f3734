"""What a memory finds and what the model makes of it, by how far back something was told.

Owns the telling and the asking: one long conversation, by a plan of `memory_plan`; at its end every question is asked,
answered, and taken back, once for every way of bringing back. Scores: the right passage came back; the answer is right.
The conversation and the answers can be kept in a folder, so that hours of it can be interrupted.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgesink import strict_json
from edgesink.errors import BadOption
from edgesink.evaluate.memory_plan import KINDS, Kind, Question, Told
from edgesink.files import place_errors
from edgesink.memory.memory import FEWEST_ROWS, Memory, can_reserve
from edgesink.memory.sample_talk import chatter, has_answer
from edgesink.runtime.chat import Chat
from edgesink.runtime.sessions import Session

Arm = Literal["nothing", "seen", "quoted", "pinned"]
"""How a question is asked: without a memory; without one, but told again right before; with what comes back."""
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
KEEP_EVERY = 2  # windows
UNKNOWN = re.compile(
    r"(don't|do not|didn't|did not|haven't|have not|doesn't|hasn't|isn't|not|no|never) (\w+ )?"
    r"(know|mention|told|tell|say|said|information|sure|specif|provid|have|record|recall|remember|clear|given|aware)"
    r"|unknown|unable|cannot|can't",
    re.IGNORECASE,
)
"""How an answer says that it is not known."""
DENIED = re.compile(r"\b(no|not|never|nobody|none)\b|n't\b", re.IGNORECASE)


@dataclass(frozen=True)
class Answered:
    """A question with one way of bringing back."""

    question: Question
    arm: Arm
    found: bool  # the right passage came back
    recalled: bool  # any came back
    right: bool
    text: str
    tokens_back: int  # from the question to where its evidence was told; 0: nowhere
    search_ms: float
    bring_ms: float


@dataclass(frozen=True)
class Score:
    """Shares for one kind of question at one distance."""

    kind: Kind
    back: int
    arm: Arm
    questions: int
    nearest: int  # tokens back, of the evidence
    farthest: int
    found: float
    right: float


class Folder:
    """Where a measurement is kept, so that it can go on: the conversation, and the answers so far.

    Args:
        path: made if it is not there.
        plan: what names the plan; a folder of another one is refused.
    """

    def __init__(self, path: Path, plan: str) -> None:
        self._plan = plan
        with place_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        self.memory = path / "talk.memory"
        self._answers = path / "answers.jsonl"
        self._session = Session.open(path / "talk.session")

    def resume(self, chat: Chat) -> dict[str, Any]:
        """Go on in `chat`; how far the telling had come, {} for nowhere. BadOption if it is of another plan."""
        self._session.resume(chat)
        kept = dict(self._session.settings)
        if kept.get("plan", self._plan) != self._plan:
            raise BadOption(f"a folder of the measurement {kept['plan']}", self._plan, "choose another folder")
        return kept

    def keep(self, chat: Chat, progress: dict[str, Any]) -> None:
        """The conversation as it stands."""
        self._session.settings = {"plan": self._plan} | progress
        self._session.save(chat)

    def answers(self) -> list[Answered]:
        """Those that were kept."""
        if not self._answers.is_file():
            return []
        return [_answered(line) for line in self._answers.read_text(encoding="utf-8").splitlines()]

    def add(self, answered: Answered) -> None:
        """Keep one more."""
        with place_errors(self._answers), self._answers.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(answered)) + "\n")

    def close(self) -> None:
        """Let others open it."""
        self._session.close()


def _answered(line: str) -> Answered:
    data = strict_json.parse(line)
    assert isinstance(data, dict)
    question = data["question"] | {"answers": tuple(data["question"]["answers"])}
    return Answered(**(data | {"question": Question(**question)}))


@dataclass
class _Progress:
    """How far the telling has come; `begins` has where each message of a plan was told."""

    group: int = 0
    message: int = 0
    drawn: int = 0  # sentences of chatter
    end: int = -1  # position up to which chatter is told behind a group; -1: its messages are not all told
    world: bool = False  # all is told
    begins: dict[str, int] = dataclasses.field(default_factory=dict)


def measure(
    chat: Chat,
    memory: Memory,
    told: Sequence[Told],
    arms: Sequence[Arm],
    report: Callable[[int, int], None] = lambda done, whole: None,
    folder: Folder | None = None,
) -> Iterator[Answered]:
    """Tell everything, then ask; gives each answer as it comes.

    Args:
        chat: at its beginning, with `memory`, and a journal that can take an exchange back.
        memory: made with the way "pinned" if that is among the arms; at `folder.memory`, if there is a folder.
        told: a plan.
        arms: ways to be compared.
        report: called with tokens fed and answers given, weighted alike, and how many there will be.
        folder: where all of it is kept, and taken up again.
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
    messages = sum(len(group.messages) for group in told)
    asking = len(questions) * len(arms) * LONGEST_ANSWER
    expected = told[0].windows * chat.stream.capacity + messages * PAIR
    progress = _tell_all(chat, memory, told, folder, lambda done: report(done, max(expected, done) + asking))
    done = chat.stream.position
    known = {} if folder is None else {(one.question, one.arm): one for one in folder.answers()}
    for question in questions:
        for arm in arms:
            answered = known.get((question, arm))
            if answered is None:
                begin = progress.begins.get(question.evidence)
                answered = _ask(chat, memory, question, arm, 0 if begin is None else chat.stream.position - begin)
                if folder is not None:
                    folder.add(answered)
            yield answered
            done += LONGEST_ANSWER
            report(done, chat.stream.position + asking)
    chat.memory = memory


def _tell_all(
    chat: Chat, memory: Memory, told: Sequence[Told], folder: Folder | None, report: Callable[[int], None]
) -> _Progress:
    """The conversation up to the questions, from where it was interrupted; where each fact was told."""
    kept = {} if folder is None else folder.resume(chat)
    kept.pop("plan", None)
    progress = _Progress(**kept)
    if folder is not None:
        memory.archive.forget_behind(chat.stream.position)
    talk = islice(chatter(seed=11), progress.drawn, None)
    saved = chat.stream.position

    def draw(count: int) -> str:
        progress.drawn += count
        return " ".join(islice(talk, count))

    def told_so_far() -> None:
        nonlocal saved
        report(chat.stream.position)
        if folder is not None and chat.stream.position - saved >= KEEP_EVERY * chat.stream.capacity:
            saved = chat.stream.position
            folder.keep(chat, dataclasses.asdict(progress))

    nearer = [*(group.windows for group in told[1:]), 0]
    while progress.group < len(told):
        group = told[progress.group]
        for message in group.messages[progress.message :]:
            for question in group.questions:
                if question.evidence and question.evidence in message:
                    progress.begins[question.evidence] = chat.stream.position
            tell(chat, message)
            if group.is_filled:
                tell(chat, draw(1))
            progress.message += 1
            told_so_far()
        if progress.end < 0:
            progress.end = chat.stream.position + (group.windows - nearer[progress.group]) * chat.stream.capacity
        while chat.stream.position < progress.end:
            tell(chat, draw(SENTENCES))
            told_so_far()
        progress.group, progress.message, progress.end = progress.group + 1, 0, -1
    if not progress.world:
        for asked, answer in WORLD:
            tell(chat, asked, answer)
        progress.world = True
        if folder is not None:
            folder.keep(chat, dataclasses.asdict(progress))
    return progress


def tell(chat: Chat, message: str, answer: str = "") -> None:
    """A message whose answer is not the model's own; "" takes one of ANSWERS, the next for each message."""
    for _ in chat.answer(message, 0):
        pass
    chat.stream.feed(chat.stream.tokenizer.encode(answer or ANSWERS[len(chat.turns) // 2 % len(ANSWERS)]))


def _ask(chat: Chat, memory: Memory, question: Question, arm: Arm, tokens_back: int) -> Answered:
    """One answer, which is taken back."""
    chat.memory = None if arm in ("nothing", "seen") else memory
    memory.recalled = None
    if arm == "quoted" or arm == "pinned":
        memory.way = arm
    before = [question.evidence, next(chatter(seed=23))] if arm == "seen" and question.evidence else []
    for message in before:
        tell(chat, message)
    text = "".join(token.text for token in chat.answer(question.text, LONGEST_ANSWER))
    recalled = memory.recalled
    for _ in range(1 + len(before)):
        chat.undo()
    passages: list[str] = [one.passage.text for one in recalled.found] if recalled else []
    found = bool(question.evidence) and any(question.evidence in passage for passage in passages)
    return Answered(
        question, arm, found, bool(passages), is_right(question, text), text, tokens_back,
        recalled.search_ms if recalled else 0.0, recalled.bring_ms if recalled else 0.0,
    )  # fmt: skip


def is_right(question: Question, text: str) -> bool:
    """Whether an answer is right; of what was never said, whether it says so; of what is not so, whether it denies."""
    if question.kind == "never said":
        return bool(UNKNOWN.search(text))
    if question.kind == "negated":
        return bool(DENIED.search(text)) and not UNKNOWN.search(text)
    is_stale = len(question.stale) > 1 and question.stale.lower() in f" {text.lower()} "
    return has_answer(question.answers, text) and not is_stale


def scores(answered: Sequence[Answered]) -> list[Score]:
    """Shares by kind, distance and way."""
    table = []
    keys = {(KINDS.index(one.question.kind), one.question.back, one.arm): None for one in answered}
    for place, back, arm in sorted(keys, key=lambda key: key[:2]):
        here = [a for a in answered if (a.question.kind, a.question.back, a.arm) == (KINDS[place], back, arm)]
        found, right = (float(np.mean([getattr(one, name) for one in here])) for name in ("found", "right"))
        tokens = [one.tokens_back for one in here]
        table.append(Score(KINDS[place], back, arm, len(here), min(tokens), max(tokens), found, right))
    return table


def false_recalls(chat: Chat, memory: Memory, messages: Sequence[str]) -> list[str]:
    """Those of some messages for which something came back; none of them is answered."""
    found: list[str] = []
    for message in messages:
        memory.recalled = None
        with memory.around(chat, message):
            if memory.recalled is not None and memory.recalled.found:
                found.append(message)
    return found
