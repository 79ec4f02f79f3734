"""Write tests/golden/memory: an archive that Python made, and what Python finds, cuts, recognises, quotes and pins.

Swift repeats it (`GoldenMemoryTests.swift`); `test_swift_memory.py` checks that the answers are current. The archive is
a file of the format as it is on people's disks: it is written anew only when the format changes (`--archive`), the
answers whenever the search does.
"""

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterable
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import numpy as np
from tokenizers import Tokenizer as Inner

from edgesink.errors import BadOption
from edgesink.memory import archive as archive_module
from edgesink.memory import packs
from edgesink.memory.archive import Archive, NewPassage
from edgesink.memory.calibration import Calibration, Numbers, normalised
from edgesink.memory.context import leans
from edgesink.memory.likeness import search_likeness
from edgesink.memory.passages import cut
from edgesink.memory.recalling import fitting, pinned_ids, quoted
from edgesink.memory.sample_talk import changes, chatter, notes, small_talk
from edgesink.memory.search import AsFed, Asked, Gains, is_question, search
from edgesink.memory.spoken import Spoken, weights_of
from edgesink.memory.standing import is_standing
from edgesink.memory.words import COMMON, content_words, weights, word_spans
from edgesink.runtime.tokenizer import Tokenizer

HERE = Path(__file__).parent
FOLDER = HERE / "golden" / "memory"
ARCHIVE, ANSWERS = FOLDER / "python.memory", FOLDER / "answers.json"
WIDTH = 8
SPACE = "golden:vectors"
PACK = 64  # fewer than in earnest, so that the file is small and has a full pack and some left over
SIGNS = "aZ é.,;:!?…—'’\"”’)_\n\t \u3000。！？」、，；日本Σσς\u0130\u0131ǅﬁ²½Ⅷ٣e\u0301\u200b\x1c"


def vectors_of(text: str) -> np.ndarray:
    """A vector for every word that matters, the same for the same word: float32 [n, d], of length 1."""
    rows = [
        np.random.default_rng(list(word.encode())).normal(size=WIDTH)
        for _, _, word in word_spans(text)
        if word not in COMMON
    ]
    return normalised(np.array(rows or np.zeros((0, WIDTH)), np.float32))


def calibration() -> Calibration:
    draw = np.random.default_rng(5)
    numbers = Numbers(1, 0, -0.5, -1.5, 0.55, 0.5, 0.5)
    return Calibration(
        SPACE,
        numbers,
        np.zeros(WIDTH, np.float32),
        np.ones(WIDTH, np.float32),
        *(draw.normal(size=shape).astype(np.float32) for shape in ((4,), (2, 4), (2,))),
    )


def fill(archive: Archive) -> None:
    """Two streams of talk with facts that change, questions, instructions, and what the model said."""
    made, talk = calibration(), chatter(7)
    old = archive.begin_stream("a bundle before", [1])
    new = archive.begin_stream("a bundle", [1, 403, 28])
    place = 0

    def tell(stream: int, role: str, *texts: str) -> None:
        nonlocal place
        passages = []
        for text in texts:
            tokens, mean = made.packed(vectors_of(text)) if len(vectors_of(text)) else (None, None)
            size = len(text) // 4 + 1
            passages.append(NewPassage(place, place + size, text, is_standing(text), tokens, mean))
            place += size
        archive.add(stream, role, passages, SPACE)

    told = [note.text for note in notes("calibrate")]
    tell(old, "user", "From now on, answer in short sentences.", *told[:20])
    tell(
        old, "assistant", "Which of it shall I remember?", "The harbour of Piran has a lighthouse made of white stone."
    )
    for change in changes()[:6]:
        tell(new, "user", change.old, *islice(talk, 5))
        tell(new, "assistant", "I see.\nThat is\tgood   to know.")
    for change in changes()[:6]:
        tell(new, "user", change.new, *islice(talk, 3))
    tell(
        new,
        "user",
        *told[20:],
        "Please always call me Captain.",
        "Naïve cafés: Ærø’s Übergrößen in 東京 № 7, ‘Σίσυφος’.",
    )
    tell(new, "user", "What is the code of the garden shed?", *islice(talk, 30))
    archive.forget([9, 50])


def write_archive() -> None:
    """Make the file anew."""
    FOLDER.mkdir(exist_ok=True)
    clock = iter(range(1_764_000_000, 2_000_000_000, 60))
    with tempfile.TemporaryDirectory() as folder, patch.object(packs, "PACK", PACK):
        path = Path(folder) / "made"
        archive = Archive(path)
        with patch.object(archive_module.time, "time", lambda: float(next(clock))):
            fill(archive)
        archive.check()
        archive.close()
        shutil.copyfile(path, ARCHIVE)


def random_text(draw: random.Random) -> str:
    letters = SIGNS if draw.random() < 0.4 else "ab .,\n!?。'"
    return "".join(draw.choice(letters) for _ in range(draw.randrange(120)))


def cuts() -> list[dict]:
    draw, found = random.Random(3), []
    texts = [
        " ".join(["word"] * 200),
        "私は猫が好きです。" * 12,
        "Short. " + " ".join(["word"] * 45) + ". " + "word, " * 90,
        " ".join(islice(chatter(2), 12)),
        'She said: "No!" (Twice.) Then—silence… And so on',
        *(random_text(draw) for _ in range(120)),
    ]
    for text in texts:
        size = draw.choice([1, 1, 2, 3, 4, 7])
        ends = [min(end, len(text)) for end in range(size, len(text) + size, size)]
        pieces = [[piece.start, piece.end, piece.first, piece.last] for piece in cut(text, ends)]
        found.append({"text": text, "token": size, "cuts": pieces})
    return found


def words() -> list[dict]:
    draw = random.Random(4)
    texts = [
        "What is the code of Anna's shed, number 7? A shed!",
        "ΟΔΥΣΣΕΥΣ ΣΑΣ Σ. ΑΣ’Σ",
        "the dogs’ ANNA’S o'clock 'tis",
        "İstanbul ﬁne ǅ Ⅷ x² 1½ snake_case _a_ e\u0301a \u1e9e",
        *(random_text(draw) for _ in range(80)),
    ]
    return [{"text": text, "spans": list(word_spans(text)), "content": content_words(text)} for text in texts]


SENTENCES = (
    "From now on, answer in French.",
    "Please always use metric units.",
    "Never mention my ex-wife.",
    "Call me Sam.",
    "Okay, from now on you are a pirate.",
    "Whenever I say 'go', tell me a joke.",
    "Answer briefly from now on.",
    "Never mind.",
    "never minding it",
    "I always take the bus.",
    "Will you always be here?",
    "She told me to call her.",
    "I never met him.",
    "",
    "?",
    "  — and so, ok, hello, PLEASE ADDRESS ME as Dr. Who",
    "And okayed from today on",
    "In the future, be brief",
    "in the future be brief",
    "Whenever I\nsay, go",
    "whenever in doubt, ask",
    "Always",
    "Alwaysly",
    "do not ever\tsay that",
    "Don't ever say that",
    "don’t ever say that",
    "you should never lie",
    "you must go",
    "For the rest of our talk be kind",
    "be kind for the rest of our talk",
    "be kind for the rest of our chat!",
    "I want you to always smile",
    "REMEMBER TO ALWAYS SMILE",
    "every time ı ask, sing",
    "every time i ask sing",
    "as of now you are free",
    "From this point onward",
    "not from now onwards",
    "so so so never  ever",
    "never _x",
    "A\u017f of now",
    "\u212aind people: from now on",
    "from now on?",
    "from now on? ",
    "ohcall me",
    "oh call me",
    "oh,call me Al",
)

LEANING = (
    "She lives there.",
    "“It's late.”",
    "THEIR house",
    "",
    "Ilse has it.",
    "Sheep are here.",
    "…",
    "— those, then",
    "They're here.",
    "日本 it",
    "Its",
)

QUESTIONS = (
    "Where is it?",
    "“Where is it?”",
    "It is in Oslo. Where is it?",
    "It is here.",
    "何？",
    "好。何？",
    "?",
    "",
    "Is it? \n»",
    "No! Is it?",
    "No!Is it?",
    "So?)",
    "a. ?",
)


def tokenizer() -> Tokenizer:
    golden = json.loads((HERE / "golden" / "tokenizer" / "gpt2.json").read_text(encoding="utf-8"))
    return Tokenizer(Inner.from_str(json.dumps(golden["tokenizer"])))


def spoken() -> list[dict]:
    found = []
    for text in ("Anna's shed — the code's 4471, naïve 😀 東京!", "What is it?", "  Two\n\nlines of Σίσυφος "):
        ids = tokenizer().encode(text)
        said = Spoken.of(tokenizer(), ids)
        found.append({"ids": ids, "text": said.text, "ends": list(said.ends), "words": said.words()})
    return found


MESSAGES = (
    "Hello, how are you?",
    "What is the code of the shed in the garden?",
    "Which codes has the shed?",
    '"',
    "a OR b*",
    "NEAR(x y)",
    "What is the capital of the garden of Versailles?",
    "Who repaired the lighthouse of Piran?",
    "日本",
    "Ærø’s Übergrößen?",
    "What was white stone in the harbour?",
    "shed",
    "Is ‘Σίσυφος’ in 東京 № 7?",
)


def searches(archive: Archive) -> list[dict]:
    """By words, with different streams and places from which on they see."""
    asked = [
        *MESSAGES,
        *(note.own for note in notes("calibrate")[:40:3]),
        *(note.other for note in notes("calibrate")[:40:7]),
        *(change.question for change in changes()[:6]),
        *islice(chatter(7), 4),
        *small_talk()[:6],
    ]
    found = []
    for number, message in enumerate(asked):
        stream, seen_from, count = number % 3, [10**6, 0, 700][number % 3], 1 + number % 4
        hits = search(archive, Asked(message), None, stream, seen_from, count)
        found.append(
            {
                "message": message,
                "stream": stream,
                "seen_from": seen_from,
                "count": count,
                "rarity": _rarity(archive, message),
                "found": [[one.passage.id, one.score, one.way] for one in hits],
            }
        )
    return found


def _rarity(archive: Archive, message: str) -> list[list]:
    with archive.reading() as connection:
        return [[word, value] for word, value in weights(connection, content_words(message)).items()]


class _Said:
    """As much of `Spoken` as a search asks for."""

    def __init__(self, words: list[str]) -> None:
        self._words = words

    def words(self) -> list[str]:
        return self._words


def judge_by_length(gains: list[float], asked: list[str]) -> Gains:
    """One that goes by how long a passage is, and notes what it was asked about."""

    def judge(passages: Iterable[str]) -> Generator[float]:
        for passage in passages:
            asked.append(passage)
            yield gains[len(passage) % len(gains)]

    return judge


def meanings(archive: Archive) -> list[dict]:
    """With a calibration: the gate, then words, then vectors; the latter also where a model judges."""
    made, draw, found = calibration(), np.random.default_rng(8), []
    asked = [
        "lighthouse Piran",
        "unheard lighthouse somewhere",
        "stone stone unheard",
        *MESSAGES[:4],
        *(note.text.rstrip(".") + " unheard" for note in notes("calibrate")[20:28]),
        *(note.own for note in notes("calibrate")[20:56]),
    ]
    for message in asked:
        said = [word for _, _, word in word_spans(message)]
        vectors = [vectors_of(word)[0] if word not in COMMON else np.ones(WIDTH) for word in said] or [np.ones(WIDTH)]
        rows = np.array(vectors, np.float32) + 0.05 * draw.normal(size=(len(vectors), WIDTH)).astype(np.float32)
        gate_rows = draw.normal(size=(3, 4)).astype(np.float32)
        words = ["" if word in COMMON else word for word in said] or [""]
        fed = AsFed(_Said(words), rows, gate_rows)  # type: ignore[arg-type]
        rarity = dict(_rarity(archive, message))
        with archive.reading() as connection:
            alike = search_likeness(connection, made, made.vectors(rows), weights_of(words, rarity), 5)
        hits = search(archive, Asked(message, fed), made, 1, 10**6, 3)
        gains, judged = [round(float(gain), 3) for gain in draw.normal(0.3, 0.5, 7)], []
        best = search(archive, Asked(message, fed), made, 1, 10**6, 3, judge_by_length(gains, judged))
        found.append(
            {
                "message": message,
                "words": words,
                "rows": rows.tolist(),
                "gate_rows": gate_rows.tolist(),
                "wants": made.wants(gate_rows).tolist(),
                "alike": [[hit.passage, hit.score] for hit in alike],
                "found": [[one.passage.id, one.score, one.way] for one in hits],
                "gains": gains,
                "judged": judged,
                "best": [[one.passage.id, one.score, one.way] for one in best],
            }
        )
    return found


def calibrated() -> dict:
    """The numbers of the calibration, and what it makes of rows."""
    made = calibration()
    rows = np.random.default_rng(9).normal(size=(5, WIDTH)).astype(np.float32)
    tokens, mean = made.packed(rows)
    arrays = {name: getattr(made, name).tolist() for name in ("mean", "scale", "gate_mean", "gate", "gate_offset")}
    thresholds = {"asks": made.numbers.asks, "is_question": made.numbers.is_question, "least": made.numbers.least}
    return {
        "name": made.name,
        **arrays,
        **thresholds,
        "rows": rows.tolist(),
        "tokens": tokens.tolist(),
        "packed": mean.tolist(),
    }


def quotations(archive: Archive) -> list[dict]:
    wishes, every = archive.standing(), list(archive.export())
    found = []
    for budget in (160, 40, 25, 5):
        for start in (0, 30, 90):
            told = every[start : start + 20 : 7]
            text = quoted("Where is it?", *fitting(tokenizer(), wishes, told[::-1], budget))
            found.append({"found": [one.id for one in told[::-1]], "budget": budget, "text": text})
    return found


REFUSED = "Captain"  # a word that no passage is encoded with, as a tokenizer may refuse one


def encoded(text: str) -> list[int]:
    if REFUSED in text:
        raise BadOption("a control token in a message")
    return tokenizer().encode(text)


def pinned(archive: Archive) -> list[dict]:
    """One passage, several, instructions, some that have no room or cannot be encoded, and none."""
    wishes, every, cases = archive.standing(), list(archive.export()), []
    best = [one for one in every if not one.standing and REFUSED not in one.text]
    refused = [one for one in every if REFUSED in one.text]
    lines = [one for one in every if "\n" in one.text][:1]
    for first, room in (([], 128), ([1, 403, 28], 128), ([1, 403, 28, 7], 61), ([9], 40), ([9], 1)):
        for along, found in (
            ([], best[2:3]),
            ([], best[40:2:-9]),
            ([], lines),
            (wishes, best[10:11]),
            (wishes, []),
            ([], refused + best[5:6]),
            ([], refused),
            ([], []),
        ):
            cases.append((first, along, found, len(first) + room))
    exact = len(encoded(best[3].text + "\n"))
    cases += [([5, 6], [], best[3:5], 2 + size) for size in (exact - 1, exact, exact + 1, 2 * exact)]
    made = []
    for first, along, found, sinks in cases:
        ids, brought = pinned_ids(encoded, first, along, found, sinks)
        made.append(
            {
                "first": first,
                "wishes": [one.id for one in along],
                "found": [one.id for one in found],
                "sinks": sinks,
                "ids": ids,
                "brought": [one.id for one in brought],
            }
        )
    return made


def golden() -> dict:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copy"
        shutil.copyfile(ARCHIVE, path)
        archive = Archive(path, make=False)
        answers = {
            "about": "made by make_golden_memory.py from python.memory; places and lengths count Unicode scalars",
            "common": sorted(COMMON),
            "cuts": cuts(),
            "words": words(),
            "spoken": spoken(),
            "standing": [[text, is_standing(text)] for text in SENTENCES],
            "questions": [[text, is_question(text)] for text in QUESTIONS],
            "leaning": [[text, leans(text)] for text in LEANING],
            "passages": [
                [one.id, one.stream, one.first, one.last, one.role, one.said, one.standing, one.text]
                for one in archive.export()
            ],
            "searches": searches(archive),
            "meanings": meanings(archive),
            "calibration": calibrated(),
            "quotations": quotations(archive),
            "refused": REFUSED,
            "pinned": pinned(archive),
        }
        archive.close()
    return answers


def text_of(data: dict) -> str:
    """JSON with a line for each answer."""
    parts = []
    for key, value in data.items():
        if isinstance(value, list) and key != "common":
            lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in value)
            shown = f"[\n{lines}\n]"
        else:
            shown = json.dumps(value, ensure_ascii=False)
        parts.append(f"{json.dumps(key)}: {shown}")
    return "{" + ",\n".join(parts) + "}\n"


if __name__ == "__main__":
    if "--archive" in sys.argv:
        write_archive()
    ANSWERS.write_text(text_of(golden()), encoding="utf-8")
