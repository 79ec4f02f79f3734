"""What appears whole or not at all, whoever is killed on the way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgesink.errors import BadPlace
from edgesink.files import recover_folder, whole_folder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and locks of folders are POSIX")

KILLED = """
import os, signal, sys
from pathlib import Path
from edgesink.files import whole_folder
rename, place = os.replace, sys.argv[2]
def replace(source, goal):
    rename(source, goal)
    if place == "between the renames" and ".old." in Path(goal).name:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
with whole_folder(Path(sys.argv[1])) as folder:
    (folder / "text").write_text("new")
    if place == "while it is filled":
        os.kill(os.getpid(), signal.SIGKILL)
"""

WAITING = """
import sys, time
from pathlib import Path
from edgesink.files import whole_folder
with whole_folder(Path(sys.argv[1])) as folder:
    (folder / "text").write_text("slow")
    print("in work", flush=True)
    sys.stdin.readline()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, text: str) -> None:
    with whole_folder(path) as folder:
        (folder / "text").write_text(text)


def killed(path: Path, place: str) -> None:
    done = subprocess.run([sys.executable, "-P", "-c", KILLED, path, place], check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_folder_takes_the_place_of_an_older_one(tmp_path):
    goal = tmp_path / "above" / "goal"
    write(goal, "old")
    (goal / "more").write_text("more")
    write(goal, "new")
    assert names(goal) == ["text"]
    assert (goal / "text").read_text() == "new"
    assert names(goal.parent) == ["goal"]


def test_what_is_written_beside_the_folder_vanishes(tmp_path):
    with whole_folder(tmp_path / "goal") as folder:
        (folder.parent / "scratch").write_text("")
    assert names(tmp_path) == ["goal"]
    assert names(tmp_path / "goal") == []


@pytest.mark.parametrize("place", ["while it is filled", "between the renames"])
def test_after_a_kill_the_old_folder_is_there_and_the_next_run_clears_up(tmp_path, place):
    goal = tmp_path / "goal"
    write(goal, "old")
    killed(goal, place)
    assert goal.exists() == (place == "while it is filled"), "the fault is not where the test wants it"
    recover_folder(goal)
    assert (goal / "text").read_text() == "old"
    write(goal, "new")
    assert names(tmp_path) == ["goal"]
    assert (goal / "text").read_text() == "new"


def test_a_run_that_fails_after_a_kill_leaves_the_old_folder(tmp_path):
    goal = tmp_path / "goal"
    write(goal, "old")
    killed(goal, "between the renames")
    with pytest.raises(RuntimeError), whole_folder(goal):
        raise RuntimeError
    assert (goal / "text").read_text() == "old"
    assert names(tmp_path) == ["goal"]


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    goal, rename = tmp_path / "goal", os.replace
    write(goal, "old")

    def replace(source: Path, target: Path) -> None:
        if target == goal and ".old." not in Path(source).name:
            raise PermissionError("no")
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(BadPlace):
        write(goal, "new")
    assert (goal / "text").read_text() == "old"
    assert names(tmp_path) == ["goal"]


def test_a_folder_that_somebody_else_fills_right_now_is_not_cleared(tmp_path):
    goal = tmp_path / "goal"
    other = subprocess.Popen(
        [sys.executable, "-P", "-c", WAITING, goal], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "in work\n"
    write(goal, "quick")
    assert (goal / "text").read_text() == "quick"
    other.communicate("\n")
    assert other.returncode == 0
    assert (goal / "text").read_text() == "slow"
    assert names(tmp_path) == ["goal"]


def test_folders_of_others_with_like_names_stay(tmp_path):
    others = [".goal.mine", ".goal.new.mine", ".goal.new.notes.abcd1234", ".goal.v2.new.abcd1234", "goal.old.abcd1234"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / ".goal.new.abcd1234").mkdir()
    write(tmp_path / "goal", "new")
    assert names(tmp_path) == sorted([*others, "goal"])
