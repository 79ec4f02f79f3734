"""What a borrowed calibration is worth: the same talk through the bundle that was measured, and through another.

    edgesink memory calibrate MODEL --for BUNDLE
    python scripts/memory_borrowed.py MODEL BUNDLE --notes 20

Notes to develop with, each with a passage of chatter behind it, are told to both in turns and asked for in other words;
then come small talk and statements. A Core ML bundle is run by our evaluator, a few tokens a second. Prints how alike
the vectors of the questions are, what the gates let through, how often the right note comes first, and how alike the
two judge whether a note makes its question likelier than the next note does.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import edgesink
from edgesink.bundles import find_bundle
from edgesink.errors import BadOption
from edgesink.manifest import Manifest
from edgesink.memory import calibration
from edgesink.memory.asking import asking, demanded_system
from edgesink.memory.calibrate import Fed, Teller
from edgesink.memory.calibration import Calibration
from edgesink.memory.judging import MOST_MESSAGE
from edgesink.memory.likeness import likeness
from edgesink.memory.sample_talk import Note, chatter, notes, small_talk, statements
from edgesink.memory.spoken import weights_of
from edgesink.runtime.session import Stream
from edgesink.verify.runners import MilRunner

ROWS, GATE_ROWS = 0, 1  # places in `Fed.rows`


class EvaluatedBackend:
    """As much of a backend as feeding and reading values asks for."""

    can_hide, in_memory, name, most_rows = False, False, "evaluator", MOST_MESSAGE

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        self._runner = MilRunner(bundle, manifest, "cpu")
        self.logits = np.zeros(manifest.vocab, np.float32)

    def feed(self, ids: np.ndarray, position: int, sinks: int, oldest: np.ndarray | None = None) -> None:
        self.logits = self._runner.feed(ids, position, sinks)

    def feed_rows(
        self, ids: np.ndarray, position: int, sinks: int, rows: int, oldest: np.ndarray | None = None
    ) -> np.ndarray:
        """Token by token, as on a phone: the program gives the logits after the last only."""
        first = len(ids) - rows + 1
        found = []
        for start, end in itertools.pairwise((0, *range(first, len(ids) + 1))):
            self.feed(ids[start:end], position + start, sinks)
            found.append(self.logits)
        return np.stack(found)

    def rows(self, name: str) -> np.ndarray:
        return self._runner.state(name)


def opened(bundle: Path) -> tuple[Stream, Calibration]:
    """A stream of a bundle, and its calibration."""
    manifest = Manifest.read(bundle)
    made = calibration.read(manifest, bundle)
    if made is None:
        raise BadOption(f"{bundle}", "a bundle that is calibrated", "edgesink memory calibrate MODEL --for BUNDLE")
    if manifest.target != "coreml":
        return edgesink.load(bundle), made
    backend: Any = EvaluatedBackend(bundle, manifest)
    return Stream(bundle, manifest, backend), made


class Talk:
    """What was told to a bundle and asked of it."""

    def __init__(self, bundle: Path, count: int, others: int) -> None:
        stream, self.made = opened(bundle)
        teller = Teller(stream, (self.made.numbers.layer, self.made.numbers.gate_layer))
        told, talk = notes("develop")[:count], chatter(seed=7)
        self.passages: list[Fed] = []
        for number, note in enumerate(told):
            self.passages += [teller.tell(note.text, number), teller.tell(" ".join(itertools.islice(talk, 2)), -1)]
        self.questions = [teller.ask(note.other, number) for number, note in enumerate(told)]
        self.small_talk = [teller.ask(text, -1) for text in small_talk("develop")[:others]]
        self.statements = [teller.ask(text, -1) for text in statements()[:others]]
        self.gains = gains(stream, self.made, told)

    def vectors(self, fed: Fed) -> np.ndarray:
        return self.made.vectors(fed.rows[ROWS].astype(np.float32))

    def let_through(self, messages: list[Fed]) -> list[bool]:
        return [self.made.lets_through(one.rows[GATE_ROWS].astype(np.float32)) for one in messages]

    def first(self) -> list[bool]:
        """For each question, whether its note is the likest passage."""
        having = Counter(word for passage in self.passages for word in set(passage.words))
        rarity = {word: math.log((len(self.passages) + 1) / (count + 0.5)) for word, count in having.items()}
        kept = [np.array([bool(word) for word in passage.words]) for passage in self.passages]
        rows = np.concatenate([self.vectors(one)[keep] for one, keep in zip(self.passages, kept, strict=True)])
        begins = np.concatenate([[0], np.cumsum([keep.sum() for keep in kept])[:-1]])
        found = []
        for question in self.questions:
            words = {word: rarity.get(word, max(rarity.values())) for word in question.words if word}
            score = likeness(rows, begins, self.vectors(question), weights_of(question.words, words))
            found.append(self.passages[int(np.argmax(score))].note == question.note)
        return found


def gains(stream: Stream, made: Calibration, told: Sequence[Note]) -> np.ndarray:
    """How much likelier each question is behind its note, and behind the next: float64 [notes, 2], nats a token."""
    stream.reset()
    chat, found = edgesink.Chat(stream, demanded_system(stream.manifest.turns), pin="none"), []
    for number, note in enumerate(told):
        texts = [note.text, told[(number + 1) % len(told)].text]
        with asking(stream, made, note.other, chat.next_turn(note.other), chat.text_ids) as (_, judge):
            if judge is None:
                raise BadOption(f"a question of {len(note.other)} characters", "one that leaves room for a passage")
            found.append(list(judge(texts)))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--notes", type=int, default=20)
    parser.add_argument("--others", type=int, default=20, help="messages of small talk, and statements")
    options = parser.parse_args()
    own, other = (Talk(path, options.notes, options.others) for path in (find_bundle(options.model), options.bundle))
    alike = [
        float((own.vectors(one) * other.vectors(two)).sum(axis=1).mean())
        for one, two in zip(own.questions, other.questions, strict=True)
    ]
    print(f"cosine of the questions' vectors: mean {np.mean(alike):.3f}, {min(alike):.3f} to {max(alike):.3f}")
    print(f"note first: {sum(own.first())} measured, {sum(other.first())} borrowed, of {options.notes}")
    for kind in ("questions", "small_talk", "statements"):
        mine, theirs = own.let_through(getattr(own, kind)), other.let_through(getattr(other, kind))
        same = sum(one == two for one, two in zip(mine, theirs, strict=True))
        print(f"{kind} let through: {sum(mine)} measured, {sum(theirs)} borrowed, {same} alike, of {len(mine)}")
    apart = np.abs(own.gains - other.gains)
    print(f"gains of the judge: {apart.mean():.3f} nats apart in the mean, {apart.max():.3f} at most")
    right = [int((one.gains[:, 0] > one.gains[:, 1]).sum()) for one in (own, other)]
    print(f"question likelier behind its own note than behind the next: {right[0]} and {right[1]} of {options.notes}")


if __name__ == "__main__":
    main()
