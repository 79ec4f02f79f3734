"""The archive: kept turn by turn, bounded, private, whole after a kill, and what is forgotten is gone from the file."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

from edgesink.errors import BadMemory, BadOption, BadPlace, DamagedMemory
from edgesink.memory import archive_file
from edgesink.memory.archive import Archive, NewPassage
from edgesink.memory.calibration import Calibration, Numbers
from edgesink.memory.likeness import search_likeness
from edgesink.memory.packs import PACK, read_means


@pytest.fixture
def archive(tmp_path):
    made = Archive(tmp_path / "talk.memory")
    yield made
    made.close()


def said(*texts, first=0):
    """Passages of ten tokens each."""
    return [NewPassage(first + 10 * i, first + 10 * i + 10, text) for i, text in enumerate(texts)]


def with_vectors(count, size=64):
    tokens = np.full((8, size), 3, np.int8)
    return [NewPassage(0, 8, f"passage {i}", tokens=tokens, mean=np.array([i % 7, 9], np.int8)) for i in range(count)]


def test_what_was_said_comes_back_in_order(archive):
    stream = archive.begin_stream("print", [1, 2])
    assert archive.add(stream, "user", said("one", "two")) == [1, 2]
    archive.add(stream, "assistant", said("three", first=20))
    assert [(p.role, p.first, p.last, p.text) for p in archive.export()] == [
        ("user", 0, 10, "one"), ("user", 10, 20, "two"), ("assistant", 20, 30, "three"),
    ]  # fmt: skip
    assert [p.text for p in archive.newest(2)] == ["three", "two"]
    assert archive.get([2, 9])[2].text == "two"


def test_a_file_that_is_opened_again_has_everything_and_only_its_owner_may_read_it(tmp_path):
    path = tmp_path / "talk.memory"
    first = Archive(path)
    first.add(first.begin_stream("print"), "user", said("kept"))
    if os.name == "posix":
        assert {os.stat(file).st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    first.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["talk.memory"], "one whole file is left"
    path.chmod(0o644)
    again = Archive(path, make=False)
    assert [p.text for p in again.export()] == ["kept"]
    again.check()
    if os.name == "posix":
        assert os.stat(path).st_mode & 0o777 == 0o600
    again.close()


def test_a_stream_is_resumed_where_its_session_was_saved(archive):
    stream = archive.begin_stream("print", [5])
    archive.add(stream, "user", said("before", "across", "behind"))
    assert archive.resume_stream("print", 15) == (stream, (5,))
    assert [p.first for p in archive.export()] == [0, None, None]
    other, prefix = archive.resume_stream("another bundle", 15)
    assert (other, prefix) == (stream + 1, ())


def test_passages_whose_tokens_were_taken_back_are_forgotten(archive):
    stream = archive.begin_stream("print")
    archive.add(stream, "user", said("before", "behind"))
    archive.cut_stream(stream, 10)
    assert [(p.text, p.first) for p in archive.export()] == [("before", 0)]


def test_what_is_forgotten_is_not_in_the_file_nor_beside_it(archive):
    stream = archive.begin_stream("print")
    archive.add(stream, "user", said(*(f"An ordinary sentence, number {i}, that stays." for i in range(300))))
    (secret,) = archive.add(stream, "user", said("My safe is behind the xylophonographer."))
    archive.add(stream, "user", said(*(f"Another sentence, number {i}, that stays as well." for i in range(300))))
    on_disk = lambda: b"".join(file.read_bytes() for file in archive.path.parent.iterdir()).lower()  # noqa: E731
    assert b"xylophonograph" in on_disk()
    assert archive.forget([secret, 9999]) == 1
    assert b"lophonograph" not in on_disk()
    assert b"another sentence, number 299" in on_disk()
    assert archive.forget_all() == 600
    assert b"sentence" not in on_disk()
    assert archive.count == 0
    archive.check()
    archive.add(stream, "user", said("The stream that is talked in is still known."))


def test_a_number_that_is_given_twice_is_forgotten_once(archive):
    archive.add(archive.begin_stream("print"), "user", said("one", "two"))
    assert archive.forget([1, 1, 7]) == 1
    assert [p.text for p in archive.export()] == ["two"]


def test_the_oldest_go_first_and_instructions_stay(tmp_path):
    archive = Archive(tmp_path / "small.memory", most_bytes=1 << 20)
    stream = archive.begin_stream("print")
    archive.add(stream, "user", [NewPassage(0, 9, "From now on, be brief.", standing=True)])
    length = "a sentence of some length, as people write them " * 8
    for i in range(0, 3000, 50):
        archive.add(stream, "user", said(*(f"number {j}: {length}" for j in range(i, i + 50))))
    assert archive.bytes <= 1 << 20
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 4 << 20
    kept = [p.text for p in archive.export()]
    assert kept[0] == "From now on, be brief."
    assert kept[-1].startswith("number 2999")
    numbers = [int(text.split(":")[0].split()[1]) for text in kept[1:]]
    assert numbers == list(range(numbers[0], 3000)), "what is left are the newest, all of them"
    assert len(numbers) > 500
    archive.check()
    archive.close()


def test_vectors_of_the_oldest_go_before_any_text(tmp_path):
    archive = Archive(tmp_path / "small.memory", most_bytes=1 << 20)
    stream = archive.begin_stream("print")
    for _ in range(16):
        archive.add(stream, "user", with_vectors(PACK // 4, size=128), "layer 3")
    assert archive.count == 4 * PACK
    with archive.reading() as connection:
        left = [id_ for (id_,) in connection.execute("SELECT passage FROM vectors ORDER BY passage")]
        packed = np.concatenate([means.passages for means in read_means(connection, 1)]).tolist()
    assert 0 < len(left) < 4 * PACK
    assert left == list(range(4 * PACK - len(left) + 1, 4 * PACK + 1))
    assert packed == left
    archive.close()


def test_means_are_packed_and_what_is_forgotten_leaves_its_pack(archive):
    stream = archive.begin_stream("print")
    archive.add(stream, "user", with_vectors(PACK), "layer 3")
    archive.add(stream, "user", with_vectors(5), "layer 3")
    archive.forget([2, PACK + 1])
    with archive.reading() as connection:
        assert connection.execute("SELECT count(*) FROM pack").fetchone() == (1,)
        packed, new = read_means(connection, 1)
    assert packed.passages.tolist() == [1, *range(3, PACK + 1)]
    assert packed.vectors[:3].tolist() == [[0, 9], [2, 9], [3, 9]]
    assert new.passages.tolist() == list(range(PACK + 2, PACK + 6))
    archive.forget([1, *range(3, PACK + 1)])
    with archive.reading() as connection:
        assert connection.execute("SELECT count(*) FROM pack").fetchone() == (0,)


def test_a_turn_whose_writing_fails_is_not_there_in_part(archive):
    stream = archive.begin_stream("print")
    with pytest.raises(BadMemory):
        archive.add(stream, "user", [*said("whole"), NewPassage(0, 1, None)])
    assert archive.count == 0
    archive.add(stream, "user", said("next"))


KILLED = """
import sys
from pathlib import Path
from edgesink.memory.archive import Archive, NewPassage
archive = Archive(Path(sys.argv[1]))
stream = archive.begin_stream("print")
for turn in range(10**6):
    archive.add(stream, "user", [NewPassage(0, 1, f"turn {turn} passage {i}") for i in range(5)])
    print(turn, flush=True)
"""


def test_a_process_that_is_killed_leaves_whole_turns_and_all_that_were_finished(tmp_path):
    path = tmp_path / "talk.memory"
    process = subprocess.Popen([sys.executable, "-P", "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    for _ in range(20):
        last = int(process.stdout.readline())
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    last = max([last, *(int(line) for line in process.communicate()[0].split())])
    archive = Archive(path)
    archive.check()
    texts = [p.text for p in archive.export()]
    assert len(texts) % 5 == 0
    assert len(texts) // 5 >= last + 1
    assert texts == [f"turn {turn} passage {i}" for turn in range(len(texts) // 5) for i in range(5)]
    archive.close()


@pytest.mark.parametrize("damage", ["no database", "cut short", "overwritten"])
def test_a_damaged_file_is_refused_as_it_is_and_can_be_set_aside(tmp_path, damage):
    path = tmp_path / "talk.memory"
    archive = Archive(path)
    stream = archive.begin_stream("print")
    archive.add(stream, "user", said(*(f"sentence {i} " * 20 for i in range(300))))
    archive.close()
    whole = path.read_bytes()
    broken = {
        "no database": b"hello" * 1000, "cut short": whole[: len(whole) // 3],
        "overwritten": whole[:200] + b"\xff" * (len(whole) - 200),
    }[damage]  # fmt: skip
    path.write_bytes(broken)
    with pytest.raises(DamagedMemory, match="damaged"):
        Archive(path)
    assert path.read_bytes() == broken
    assert archive_file.set_aside(path).name == "talk.memory.damaged-1"
    assert (tmp_path / "talk.memory.damaged-1").read_bytes() == broken
    fresh = Archive(path)
    assert fresh.count == 0
    fresh.close()


def test_a_disk_that_cannot_be_read_is_no_damage_of_the_file(tmp_path):
    with pytest.raises(BadPlace, match="disk I/O error"), archive_file.database_errors(tmp_path / "talk.memory"):
        raise sqlite3.OperationalError("disk I/O error")


def test_a_file_that_two_processes_make_at_once_is_made_once(tmp_path, monkeypatch):
    make = archive_file._make

    def second(connection):  # another process was faster between the look and the making
        monkeypatch.setattr(archive_file, "_make", make)
        Archive(tmp_path / "talk.memory").close()
        make(connection)

    monkeypatch.setattr(archive_file, "_make", second)
    archive = Archive(tmp_path / "talk.memory")
    archive.check()
    assert archive.count == 0
    archive.close()


@pytest.mark.parametrize("prefix", ["{", "[1, 1.5]", "[true]", "7", '{"a": 1, "a": 1}', b"[1]"])
def test_first_ids_that_are_none_are_damage(archive, prefix):
    archive.begin_stream("print", [5])
    with archive.reading() as connection:
        connection.execute("UPDATE stream SET prefix = ?", (prefix,))
    with pytest.raises(DamagedMemory, match=r"talk\.memory is damaged \(the first ids"):
        archive.resume_stream("print", 0)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE vectors SET tokens = x'0102030405' WHERE passage = 3", "UPDATE vectors SET tokens = x''",
        "UPDATE vectors SET mean = 'text' WHERE passage = 515", "UPDATE vectors SET mean = x'010203'",
        "UPDATE vectors SET mean = x'010203' WHERE passage = 515", "UPDATE pack SET means = x'010203'",
        "UPDATE pack SET passages = x'01'", "UPDATE pack SET passages = x''", "UPDATE pack SET means = x''",
        "UPDATE pack SET means = zeroblob(512)",
    ],
)  # fmt: skip
def test_vectors_of_another_width_are_damage(archive, damage):
    zeros = np.zeros(2, np.float32)
    made = Calibration("layer 3", Numbers(0, 0, 0.0, 0.0, 0.0, 0.0, 0.0), zeros, zeros, zeros, zeros, zeros)
    stream = archive.begin_stream("print")
    for _ in range(4):
        archive.add(stream, "user", with_vectors(PACK // 4, size=2), "layer 3")
    archive.add(stream, "user", with_vectors(5, size=2), "layer 3")
    question = np.array([[0.6, 0.8]], np.float32)
    with archive.reading() as connection:
        assert len(search_likeness(connection, made, question, np.ones(1, np.float32), 600)) == 400
        connection.execute(damage)
        if "tokens" in damage and "WHERE" in damage:  # one of the passages that are compared exactly
            connection.execute("DELETE FROM vectors WHERE passage != 3")
    with pytest.raises(DamagedMemory, match=r"talk\.memory is damaged"), archive.reading() as connection:
        search_likeness(connection, made, question, np.ones(1, np.float32), 600)


def test_a_pack_without_its_passages_finds_nothing(archive):
    zeros = np.zeros(2, np.float32)
    made = Calibration("layer 3", Numbers(0, 0, 0.0, 0.0, 0.0, 0.0, 0.0), zeros, zeros, zeros, zeros, zeros)
    archive.add(archive.begin_stream("print"), "user", with_vectors(PACK, size=2), "layer 3")
    with archive.reading() as connection:
        connection.execute("DELETE FROM vectors")
        assert search_likeness(connection, made, np.ones((1, 2), np.float32), np.ones(1, np.float32), 5) == []


def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "bookmarks.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE bookmark (address TEXT)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(BadMemory, match="something else"):
        Archive(path)
    assert path.read_bytes() == before


def test_what_is_no_memory_is_refused_by_name(tmp_path):
    with pytest.raises(BadMemory, match="no memory at"):
        Archive(tmp_path / "none", make=False)
    with pytest.raises(BadPlace):
        Archive(tmp_path / "no folder" / "talk.memory")
    with pytest.raises(BadPlace, match="no ordinary file"):
        Archive(tmp_path)
    with pytest.raises(BadPlace, match="null"):
        Archive(tmp_path / "talk\0memory")
    with pytest.raises(BadOption, match="1048576 or more"):
        Archive(tmp_path / "talk.memory", most_bytes=1000)
    later = Archive(tmp_path / "later")
    with later.reading() as connection:
        connection.execute("PRAGMA user_version = 9")
    later.close()
    with pytest.raises(BadMemory, match="version 9"):
        Archive(tmp_path / "later")


def test_another_process_that_writes_is_waited_for_and_then_named(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_file, "BUSY_SECONDS", 0.05)
    one, two = Archive(tmp_path / "talk.memory"), Archive(tmp_path / "talk.memory")
    stream = one.begin_stream("print")
    with one.reading() as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(BadMemory, match="another process"):
            two.add(stream, "user", said("late"))
        connection.execute("COMMIT")
    two.add(stream, "user", said("in time"))
    assert [p.text for p in one.export()] == ["in time"]
    one.close()
    two.close()
