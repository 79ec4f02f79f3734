"""Weights are mapped where that costs nothing, and are the file's bytes wherever they are."""

import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgesink.errors import BadBundle
from edgesink.runtime import weight_file
from edgesink.runtime.weight_file import open_weights

SIZE = 5 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "weights"
    found.write_bytes(np.random.default_rng(0).integers(0, 256, SIZE, np.uint8).tobytes())
    return found


def is_mapped(weights: np.ndarray) -> bool:
    """Whether the array lies over a file."""
    base = weights
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return isinstance(base, mmap.mmap)


@pytest.mark.parametrize("mapped", [True, False, None])
def test_they_are_the_bytes_of_the_file(path, mapped):
    assert open_weights(path, mapped).tobytes() == path.read_bytes()


def test_they_are_mapped_or_read_as_asked(path):
    assert is_mapped(open_weights(path, True))
    assert not is_mapped(open_weights(path, False))


def test_a_large_file_stays_where_it_is(path, monkeypatch):
    monkeypatch.setattr(weight_file, "SMALL_BYTES", SIZE - 1)
    assert is_mapped(open_weights(path))


@pytest.mark.parametrize(("huge_bytes", "stays"), [(0, False), (SIZE // 2, False), (SIZE, True)])
def test_a_small_file_stays_where_it_is_only_in_huge_pages(path, monkeypatch, huge_bytes, stays):
    found = iter([7 << 20, (7 << 20) + huge_bytes])  # before it is mapped, and behind that
    monkeypatch.setattr(weight_file, "huge_file_bytes", lambda: next(found))
    assert is_mapped(open_weights(path)) == stays


def test_a_file_of_more_than_half_of_the_free_memory_is_not_brought_in(path, monkeypatch):
    brought: list[int] = []
    monkeypatch.setattr(weight_file, "_populate", lambda weights: brought.append(len(weights)))
    monkeypatch.setattr(weight_file, "free_bytes", lambda: 2 * SIZE - 1)
    assert is_mapped(open_weights(path))
    assert brought == []
    monkeypatch.setattr(weight_file, "free_bytes", lambda: 2 * SIZE)
    open_weights(path)
    assert brought == [SIZE]
    open_weights(path, step_bytes=SIZE - 5000)  # of an embedding in front, a step reads one row
    assert brought == [SIZE, SIZE - 5000]


def test_a_file_without_bytes_is_not_mapped(tmp_path):
    (tmp_path / "weights").touch()
    assert [len(open_weights(tmp_path / "weights", mapped)) for mapped in (True, False, None)] == [0, 0, 0]


def test_a_file_that_ends_too_soon_is_refused(path, monkeypatch):
    whole = weight_file.np.empty
    monkeypatch.setattr(weight_file.np, "empty", lambda size, kind: whole(size + 1, kind))
    with pytest.raises(BadBundle, match="ends too soon"):
        open_weights(path, False)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_mapped_weights_are_no_memory_of_the_process(path):
    script = """
import sys
from pathlib import Path
import numpy
from edgesink.runtime.weight_file import open_weights
def kilobytes(name):
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
before = kilobytes("Anonymous:"), kilobytes("Rss:")
weights = open_weights(Path(sys.argv[1]), sys.argv[2] == "mapped")
assert int(weights.sum()) > 0
print(kilobytes("Anonymous:") - before[0], kilobytes("Rss:") - before[1])
"""
    for way, least, most in (("mapped", 0, 1024), ("read", SIZE >> 10, (SIZE >> 10) + 3072)):
        printed = subprocess.run(
            [sys.executable, "-P", "-c", script, path, way], check=True, capture_output=True, text=True
        )
        anonymous, resident = map(int, printed.stdout.split())
        assert least <= anonymous <= most, (way, anonymous)
        assert resident >= SIZE >> 10
