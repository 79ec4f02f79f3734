"""A session remembers beyond its window unless it is told not to, and its memory shares its fate."""

import io
import os
import subprocess
import sys

import pytest

import edgesink
from edgesink.memory import calibration
from edgesink.memory.archive import Archive
from edgesink.memory.calibrate import calibrate
from edgesink.memory.memory import Memory
from edgesink.runtime.sessions import Session, memory_path, session_path
from edgesink.spec import StreamSpec

SHED = "The code of the garden shed is 4471."
ASKED = "What is the code of the garden shed?"


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("remembered") / "bundle", StreamSpec(4, 300, 64, 32))


@pytest.fixture(autouse=True)
def state_folder(tmp_path, monkeypatch):
    """Names lead into an empty folder."""
    monkeypatch.setenv("EDGESINK_STATE", str(tmp_path / "state"))
    return tmp_path / "state" / "sessions"


@pytest.fixture
def talk(bundle, command, monkeypatch):
    """talk(messages, *options) -> (exit code, stderr) of a chat that is a process of its own as far as files know."""

    def say(messages, *options, code=0):
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(messages) + "\n"))
        found, _, err = command("chat", bundle, "--max-new-tokens", 2, "--temperature", 0, *options)
        assert found == code, err
        return err

    return say


FILLER = [f"Sentence {number} is about the weather, which was pleasant and mild all day." for number in range(5)]


def test_what_is_told_in_one_session_comes_back_in_a_later_one(talk, state_folder):
    err = talk([SHED], "--session", "diary")
    assert err.count("edgesink memory calibrate") == 1
    assert "edgesink memory calibrate" not in talk(FILLER, "--session", "diary")
    assert f"remembered, quoted: “{SHED}”" in talk([ASKED], "--session", "diary")
    assert "nothing has come back yet" in talk(["/memory"], "--session", "diary")
    assert sorted(path.name for path in state_folder.iterdir()) == ["diary.session", "diary.session.memory"]
    assert memory_path(session_path("diary")).stat().st_mode & 0o077 == 0 or os.name != "posix"


def test_without_a_memory_nothing_is_kept_beside_a_session(talk, state_folder):
    talk([SHED, *FILLER], "--session", "diary", "--no-memory")
    assert "remembered" not in talk([ASKED], "--session", "diary", "--no-memory")
    assert [path.name for path in state_folder.iterdir()] == ["diary.session"]


def test_a_session_that_began_without_gets_what_was_said_in_it(talk, bundle):
    talk([SHED, *FILLER], "--session", "diary", "--no-memory")
    assert f"remembered, quoted: “{SHED}”" in talk([ASKED], "--session", "diary")
    archive = Archive(memory_path(session_path("diary")))
    assert " ".join(passage.text for passage in archive.export() if passage.role == "user") == " ".join(
        [SHED, *FILLER, ASKED]
    )
    archive.close()


def test_a_session_goes_on_where_its_memory_cannot_be_opened(talk, state_folder):
    talk([SHED], "--session", "diary", "--no-memory")
    memory_path(session_path("diary")).mkdir()
    err = talk(["Hello."], "--session", "diary")
    assert "nothing will come back from beyond the window" in err
    assert "is no ordinary file" in err
    with Session.open("diary") as session:
        assert not session.is_new
    err = talk(["Hello."], "--memory", memory_path(session_path("diary")), code=1)
    assert "is no ordinary file" in err


def test_trouble_that_comes_later_is_said_once_and_the_talk_goes_on(bundle, tmp_path):
    said = []
    memory = Memory(tmp_path / "talk.memory", on_trouble=said.append)
    chat = edgesink.Chat(edgesink.load(bundle), pin="none", memory=memory)
    list(chat.answer(SHED, 2))
    memory.archive.close()
    assert len(list(chat.answer("Hello.", 2))) == 2
    assert len(list(chat.answer("Hello.", 2))) == 2
    assert len(said) == 1
    assert "the memory is off" in said[0]


def test_a_damaged_calibration_leaves_words(bundle, tmp_path):
    chat = edgesink.Chat(edgesink.load(bundle), pin="none")
    path = calibration.place_of(chat.stream.manifest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"nothing")
    chat.memory = memory = Memory(tmp_path / "talk.memory")
    try:
        for message in (SHED, *FILLER):
            list(chat.answer(message, 2))
        with memory.around(chat, ASKED) as written:
            assert SHED in written
    finally:
        path.unlink()
    assert "only words are searched" in memory.trouble
    assert not memory.is_off


def test_contradictions_are_refused_before_a_model_is_loaded(command, tmp_path):
    code, _, err = command("chat", "no-such-model", "--memory", tmp_path / "m", "--no-memory", "-m", "hi")
    assert (code, "expected one of the two" in err) == (1, True)
    code, _, err = command("chat", "no-such-model", "--recall", "pinned", "-m", "hi")
    assert (code, "--recall pinned without a memory" in err) == (1, True)


def test_a_memory_is_listed_with_its_session_read_by_its_name_and_removed_with_it(talk, command, state_folder):
    talk([SHED, *FILLER], "--session", "diary")
    size = memory_path(session_path("diary")).stat().st_size
    assert f"+ {size / 1e6:.1f} MB of memory" in command("sessions", "list")[1]
    assert f'"memory_bytes": {size}' in command("sessions", "list", "--json")[1]
    assert SHED in command("memory", "search", "diary", ASKED)[1]
    assert SHED in command("memory", "export", "diary")[1]
    assert command("memory", "forget", "diary", "--all")[0] == 0
    assert command("memory", "export", "diary")[1] == ""
    (state_folder / "diary.session.memory.damaged-1").write_bytes(b"x")
    (state_folder / "diary.session.memory-wal").write_bytes(b"")
    (state_folder / "diary.session.memory.mine").write_bytes(b"x")
    assert command("sessions", "rm", "diary")[0] == 0
    assert [path.name for path in state_folder.iterdir()] == ["diary.session.memory.mine"]


@pytest.mark.slow
def test_told_on_monday_asked_on_wednesday_in_other_words(smollm2_bundles, tmp_path):
    """Three processes, the real model, and a question that shares no word that matters with what was told."""
    bundle = smollm2_bundles("int4", StreamSpec(4, 508, 64, 64))
    stream = edgesink.load(bundle)
    calibration.write(calibrate(stream), calibration.place_of(stream.manifest))
    environment = os.environ | {"EDGESINK_STATE": str(tmp_path / "state")}

    def day(*messages):
        words = [sys.executable, "-P", "-c", "from edgesink.cli import main; main()", "chat", str(bundle)]
        return subprocess.run(
            [*words, "--session", "week", "--temperature", "0", "--max-new-tokens", "30"],
            input="\n".join(messages), capture_output=True, encoding="utf-8", env=environment, check=True,
        )  # fmt: skip

    day("My brother Anders repairs violins in Cremona.", "I slept badly and drank too much coffee.")
    filler = [f"On street number {number} there was a market with apples, bread and cheese." for number in range(14)]
    day(*filler)
    wednesday = day("Which objects does my sibling mend for a living?")
    assert "remembered, quoted: “My brother Anders repairs violins in Cremona.”" in wednesday.stderr
    assert "violin" in wednesday.stdout
