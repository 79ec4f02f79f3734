"""A file is hashed once and after every change, and never believed to be what it was."""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from edgesink import known_digests
from edgesink.known_digests import KnownDigests


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A folder with a file of data, and a cache of its own; the clock has gone on since it was written."""
    monkeypatch.setenv("EDGESINK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "model.onnx").write_bytes(b"data")
    now = time.time_ns
    monkeypatch.setattr(known_digests.time, "time_ns", lambda: now() + 3 * 1_000_000_000)
    return tmp_path / "bundle"


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Names of the files that are read to be hashed."""
    names: list[str] = []
    whole = known_digests.sha256_of
    monkeypatch.setattr(known_digests, "sha256_of", lambda path: names.append(path.name) or whole(path))
    return names


def digest(folder: Path) -> str:
    """Of its file, as a process of its own would ask for it."""
    digests = KnownDigests(folder)
    found = digests.sha256_of(folder / "model.onnx")
    digests.keep()
    return found


def test_a_file_is_hashed_once(folder, hashed):
    assert [digest(folder), digest(folder), digest(folder)] == [hashlib.sha256(b"data").hexdigest()] * 3
    assert hashed == ["model.onnx"]


def test_a_file_is_hashed_again_when_it_was_written_to_even_with_its_size_and_time_put_back(folder, hashed):
    digest(folder)
    path = folder / "model.onnx"
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"atad")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, 4)
    assert digest(folder) == hashlib.sha256(b"atad").hexdigest()
    assert len(hashed) == 2


def test_a_file_is_hashed_again_when_another_took_its_place(folder, hashed):
    digest(folder)
    (folder / "new").write_bytes(b"atad")
    os.replace(folder / "new", folder / "model.onnx")
    assert digest(folder) == hashlib.sha256(b"atad").hexdigest()


def test_a_file_that_changed_just_now_is_not_believed_to_stay(folder, hashed, monkeypatch):
    monkeypatch.setattr(
        known_digests.time, "time_ns", lambda: (folder / "model.onnx").stat().st_ctime_ns + 1_999_999_999
    )
    digest(folder)
    digest(folder)
    assert len(hashed) == 2


def test_files_of_one_name_in_two_places_are_two(folder, hashed):
    (folder / "inner").mkdir()
    (folder / "inner" / "model.onnx").write_bytes(b"other")
    digests = KnownDigests(folder)
    found = [digests.sha256_of(folder / name) for name in ("model.onnx", "inner/model.onnx")]
    assert found == [hashlib.sha256(data).hexdigest() for data in (b"data", b"other")]


@pytest.mark.parametrize(
    "record", ["", "[]", '{"format": 2, "files": {}}', '{"format": 1, "files": {"model.onnx": 1}}']
)
def test_a_damaged_record_only_costs_time(folder, hashed, record):
    digest(folder)
    (path,) = (folder.parent / "cache" / "digests").iterdir()
    path.write_text(record, encoding="utf-8")
    assert digest(folder) == hashlib.sha256(b"data").hexdigest()
    assert len(hashed) == 2
    assert json.loads(path.read_text(encoding="utf-8"))["format"] == 1


def test_what_is_gone_is_not_kept(folder, hashed):
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    for one in (folder, other):
        digest(one)
    records = folder.parent / "cache" / "digests"
    strangers = {"later.json": '{"format": 9}', "older.json": '{"format": 1, "files": {}}', "odd.json": "no JSON"}
    for name, text in strangers.items():
        (records / name).write_text(text, encoding="utf-8")
    assert len(list(records.iterdir())) == 2 + len(strangers)
    shutil.rmtree(other)
    (folder / "more").write_bytes(b"more")
    digests = KnownDigests(folder)
    digests.sha256_of(folder / "more")
    (folder / "model.onnx").unlink()
    digests.keep()
    (record,) = (path for path in records.iterdir() if path.name not in strangers)
    assert list(json.loads(record.read_text(encoding="utf-8"))["files"]) == ["more"]
    assert {path.name for path in records.iterdir()} == {record.name, *strangers}


def test_without_a_cache_that_can_be_written_files_are_hashed_each_time(folder, hashed, monkeypatch):
    (folder.parent / "cache").write_text("a file, no folder", encoding="utf-8")
    assert [digest(folder), digest(folder)] == [hashlib.sha256(b"data").hexdigest()] * 2
    assert hashed == ["model.onnx"] * 2
