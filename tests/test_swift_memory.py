"""The Swift memory is the Python one: the same golden answers, the same schema, and files that go there and back."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import swift_cli as swift

import edgesink
from edgesink.memory import calibration
from edgesink.memory.archive import Archive, NewPassage
from edgesink.memory.archive_file import SCHEMA
from edgesink.memory.calibration import Calibration, Numbers
from edgesink.memory.memory import Memory
from edgesink.memory.recalling import Way
from edgesink.spec import StreamSpec

HERE = Path(__file__).parent
SOURCES = HERE.parent / "apps" / "ios" / "EdgesinkKit" / "Sources" / "EdgesinkMemory"


def test_the_golden_answers_are_current():
    """Run make_golden_memory.py where they are not, and then `swift test`, which holds Swift to them."""
    import make_golden_memory as made

    stored = json.loads(made.ANSWERS.read_text(encoding="utf-8"))
    fresh = json.loads(json.dumps(made.golden()))
    assert list(stored) == list(fresh)
    for key in stored:
        assert close_to(stored[key]) == fresh[key], key


class close_to:  # noqa: N801 - reads as pytest.approx does, and looks into lists and objects as that does not
    """Equal but for the last digits of numbers, which another processor may round otherwise."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        mine = self.value
        if isinstance(mine, list) and isinstance(other, list):
            return len(mine) == len(other) and all(close_to(a) == b for a, b in zip(mine, other, strict=True))
        if isinstance(mine, dict) and isinstance(other, dict):
            return list(mine) == list(other) and all(close_to(mine[key]) == other[key] for key in mine)
        return other == (pytest.approx(mine, rel=1e-4, abs=1e-5) if type(mine) is float else mine)

    __hash__ = None  # type: ignore[assignment]


def test_swift_makes_the_same_tables():
    swift = (SOURCES / "ArchiveFile.swift").read_text(encoding="utf-8")
    (schema,) = re.findall(r'let schema = """\n(.*?)\n +"""', swift, re.DOTALL)
    assert [line.strip() for line in schema.splitlines()] == [line.strip() for line in SCHEMA.strip().splitlines()]


SPEC = StreamSpec(sinks=4, window=300, max_sinks=64, chunk=64)  # tokens of the toy are bytes
SHED = "The code of the garden shed is 4471."
MESSAGES = (
    "From now on, answer in one word. My cousin Ilse lives in Bergen, where it rains.", SHED,
    *(f"Sentence {number} is about the weather, which was mild at noon and cold at night." for number in range(7)),
    "What is the code of the garden shed?", "Ærø’s café: naïve, 東京 😀?  And  so\ton.",
    "My cousin Ilse lives in Porto.",
    *(f"Nothing happened on day {number} that anybody would like to be told again." for number in range(7)),
    "Where does my cousin Ilse live?", "Well then.", "What is the code of the garden shed?",
    "My aunt Greta brought both of her large dogs along. She has a house with a blue door in Graz.",
    *(f"Nothing happened on night {number} that anybody would like to be told again." for number in range(7)),
    "What about my aunt Greta and her dogs?", "Who has a house with a blue door?",
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("memory") / "bundle", SPEC)


@pytest.fixture(scope="module")
def made(bundle, tmp_path_factory) -> Path:
    """A calibration of the toy that lets everything through."""
    manifest = edgesink.load(bundle).manifest
    draw, numbers = np.random.default_rng(0), Numbers(1, 0, -1e9, -1e9, 0.2, 0.5, 0.5)
    arrays = [draw.normal(size=shape).astype(np.float32) for shape in (32, 32, 32, (2, 32), 2)]
    path = tmp_path_factory.mktemp("calibration") / "made"
    calibration.write(Calibration(calibration.name_of(manifest, "0"), numbers, *arrays), path)
    return path


def in_python(bundle: Path, path: Path, made: Calibration | None, way: Way, judge: bool) -> list[dict]:
    """The conversation as Swift has it: the plain graph, and tokens that are forgotten one by one."""
    memory, found = Memory(path, way, compare=made, judge=judge), []
    stream = edgesink.load(bundle, provider="plain")
    chat = edgesink.Chat(stream, pin="none", memory=memory, evict="plain", undo_bytes=0)
    for message in MESSAGES:
        memory.recalled = None
        text = "".join(token.text for token in chat.answer(message, 40))
        recall = memory.recalled
        wishes = [[one.id, None] for one in recall.wishes] if recall else []
        told = [[one.passage.id, one.way] for one in recall.found] if recall else []
        found.append({"answer": text, "recalled": wishes + told, "way": recall.way if recall else None})
    assert memory.trouble == ""
    memory.close()
    return found


def in_swift(bundle: Path, path: Path, *options: object) -> list[dict]:
    lines = "\n".join(MESSAGES) + "\n"
    said = swift.run("talk", bundle, "--memory", path, "--max-new-tokens", 40, *options, stdin=lines)
    found = [json.loads(line) for line in said.splitlines()]
    return [one | {"recalled": [[back["id"], back.get("way")] for back in one["recalled"]]} for one in found]


def rows(path: Path, query: str) -> list[tuple]:
    archive = Archive(path, make=False)
    archive.check()
    with archive.reading() as connection:
        found = connection.execute(query).fetchall()
    archive.close()
    return found


@pytest.mark.parametrize("calibrated", [False, True])
def test_the_same_conversation_leaves_the_same_memory_and_the_same_comes_back(bundle, tmp_path, made, calibrated):
    ways = ways_of(compare(bundle, tmp_path, made if calibrated else None))
    assert ways == ({None, "words", "meaning"} if calibrated else {None, "words"})


def test_the_model_judges_the_same_passages_alike(bundle, tmp_path, made):
    found = []
    for judge in (True, False):
        folder = tmp_path / str(judge)
        folder.mkdir()
        found.append(compare(bundle, folder, made, judge=judge))
        assert "meaning" in ways_of(found[-1])
    judged, unjudged = ([one["recalled"] for one in each] for each in found)
    assert judged != unjudged, "or it is not seen whether anything was judged"


def test_swift_takes_the_calibration_out_of_the_folder_of_the_bundle(bundle, tmp_path, made):
    carrying = shutil.copytree(bundle, tmp_path / "carrying")
    calibration.write_into(read(made), carrying)
    named, carried = in_swift(bundle, tmp_path / "a", "--calibration", made), in_swift(carrying, tmp_path / "b")
    assert carried == named
    assert "meaning" in ways_of(carried)
    assert rows(tmp_path / "a", "SELECT * FROM vectors") == rows(tmp_path / "b", "SELECT * FROM vectors")


@pytest.mark.parametrize("calibrated", [False, True])
def test_the_same_answers_come_with_passages_in_pinned_rows(bundle, tmp_path, made, calibrated):
    compare(bundle, tmp_path, made if calibrated else None, "pinned")


@pytest.mark.slow
@pytest.mark.parametrize("recall", ["quoted", "pinned"])
def test_the_same_holds_of_a_real_model(smollm2_bundles, tmp_path, recall):
    bundle = smollm2_bundles("int4", StreamSpec.fitted(window=252))
    numbers, draw, made = Numbers(20, 10, -1e9, -1e9, 0.2, 0.5, 0.5), np.random.default_rng(0), tmp_path / "made"
    arrays = [draw.normal(size=shape).astype(np.float32) for shape in (192, 192, 192, (2, 192), 2)]
    calibration.write(Calibration(calibration.name_of(edgesink.load(bundle).manifest, "0"), numbers, *arrays), made)
    assert ways_of(compare(bundle, tmp_path, made, recall)) == {None, "words", "meaning"}


def ways_of(answers: list[dict]) -> set[str | None]:
    """How what came back was found."""
    return {way for one in answers for _, way in one["recalled"]}


def compare(bundle: Path, tmp_path: Path, made: Path | None, recall: Way = "quoted", judge: bool = True) -> list[dict]:
    """The conversation in both languages, which must not differ: its answers, and what came back."""
    python, other = tmp_path / "python.memory", tmp_path / "swift.memory"
    options = ["--recall", recall, *(["--calibration", made] if made else []), *([] if judge else ["--no-judge"])]
    expected = in_python(bundle, python, read(made) if made else None, recall, judge)
    assert in_swift(bundle, other, *options) == expected
    assert sum(bool(one["recalled"]) for one in expected) > 3
    assert {one["way"] for one in expected} == {recall, None}
    for query in (
        "SELECT id, stream, first, last, role, standing, text FROM passage ORDER BY id",
        "SELECT id, fingerprint, prefix FROM stream", "SELECT * FROM space", "SELECT passage, space FROM vectors",
    ):  # fmt: skip
        assert rows(other, query) == rows(python, query)
    query = "SELECT tokens, mean FROM vectors ORDER BY passage"
    for mine, theirs in zip(rows(other, query), rows(python, query), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            difference = np.frombuffer(a, np.int8).astype(int) - np.frombuffer(b, np.int8)
            assert np.abs(difference).max() <= 1, "but for a number between two"
    assert bool(rows(other, "SELECT * FROM vectors")) == bool(made)
    return expected


def read(path: Path) -> Calibration:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        header = file.metadata()
        return Calibration(
            header["name"], Numbers(**json.loads(header["numbers"])),
            **{name: file.get_tensor(name) for name in calibration.ARRAYS},
        )  # fmt: skip


def test_a_conversation_that_python_began_is_taken_up_by_swift_and_again_by_python(bundle, tmp_path):
    path, session = tmp_path / "talk.memory", tmp_path / "talk.session"
    memory = Memory(path, compare=None)
    stream = edgesink.load(bundle, provider="plain")
    chat = edgesink.Chat(stream, pin="none", memory=memory, evict="plain", undo_bytes=0)
    for message in MESSAGES[:6]:
        list(chat.answer(message, 5))
    stream.feed(list(chat.next_turn("x").answer) or [7])
    stream.save(session)
    memory.close()
    swift.run("talk", bundle, "--memory", path, "--restore", session, "--save", session, stdin="Hello.\n" * 9)
    assert {stream for (stream,) in rows(path, "SELECT DISTINCT stream FROM passage")} == {1}
    memory = Memory(path, compare=None)
    stream.restore(session)
    chat = edgesink.Chat(stream, pin="none", memory=memory, evict="plain", undo_bytes=0)
    list(chat.answer("What is the code of the garden shed?", 5))
    assert [one.passage.text for one in memory.recalled.found] == [SHED]
    assert memory.archive.newest(1)[0].stream == 1, "the same stream throughout"
    memory.close()


def test_swift_searches_and_forgets_what_python_kept(tmp_path):
    path = tmp_path / "talk.memory"
    archive = Archive(path)
    stream = archive.begin_stream("print")
    filling = [NewPassage(0, 9, f"An ordinary sentence, number {number}.") for number in range(200)]
    archive.add(stream, "user", [*filling, NewPassage(0, 9, "The xylophonographer keeps the key."), *filling])
    archive.close()
    (found,) = [json.loads(line) for line in swift.run("memory", path, "--search", "xylophonographer key").splitlines()]
    assert (found["id"], found["way"], found["score"]) == (201, "words", pytest.approx(1))
    swift.run("memory", path, "--forget", 201)
    assert [file.name for file in tmp_path.iterdir()] == ["talk.memory"]
    assert b"lophonograph" not in path.read_bytes().lower()
    swift.run("memory", path, "--check")
    listed = [json.loads(line) for line in swift.run("memory", path).splitlines()]
    assert [one["id"] for one in listed] == [*range(1, 201), *range(202, 402)]
    swift.run("memory", path, "--forget-all")
    assert b"ordinary" not in path.read_bytes()
    assert rows(path, "SELECT count(*) FROM passage") == [(0,)]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_swift_process_that_is_killed_leaves_all_exchanges_that_were_finished(bundle, tmp_path):
    path = tmp_path / "talk.memory"
    capi = Path(onnxruntime.__file__).parent / "capi"
    library = next(str(file) for file in capi.glob("libonnxruntime*") if "providers" not in file.name)
    process = subprocess.Popen(
        [swift.built(), "talk", bundle, "--memory", path, "--max-new-tokens", "3"], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"EDGESINK_ONNXRUNTIME": library},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("".join(f"Turn {number} is said.\n" for number in range(300)))
    process.stdin.flush()
    for _ in range(12):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    finished = 12 + len(process.communicate()[0].splitlines())
    texts = [text for (text,) in rows(path, "SELECT text FROM passage WHERE role = 'user' ORDER BY id")]
    assert texts == [f"Turn {number} is said." for number in range(len(texts))]
    assert finished <= len(texts) <= finished + 1
    assert finished < 300
