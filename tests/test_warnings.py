"""A warning raised at a line of ours is an error in the tests; a dependency's own is printed, and users see neither."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
WARNERS = """
import warnings
import numpy as np

def its_own():
    warnings.warn("raised inside", FutureWarning)

def its_callers():
    warnings.warn("raised at the caller", FutureWarning, stacklevel=2)

def call_it():
    its_callers()

def leave_a_file_open():
    open(__file__)

def average_nothing():
    return np.mean([])
"""
CASES = """
import sys
import warnings
sys.path.insert(0, {folder!r})
import edgesink
edgesink.__path__.append({folder!r} + "/ours")
import dependency
import edgesink_neighbour
import edgesink.toy

def test_a_dependency_at_its_own_line(): dependency.its_own()
def test_a_dependency_called_by_a_dependency(): dependency.call_it()
def test_a_package_whose_name_begins_like_ours(): edgesink_neighbour.its_own()
def test_a_file_that_a_dependency_leaves_open(): dependency.leave_a_file_open()
def test_pytest_plans_a_change():
    import pytest
    warnings.warn_explicit("soon", pytest.PytestDeprecationWarning, "pytest.py", 1, module="_pytest.fixtures")
def test_ours_at_its_own_line(): edgesink.toy.its_own()
def test_a_dependency_at_a_line_of_ours(): edgesink.toy.dependency.its_callers()
def test_a_dependency_called_by_ours(): edgesink.toy.call_it()
def test_a_dependency_called_by_the_test(): dependency.its_callers()
def test_a_file_that_we_leave_open(): edgesink.toy.leave_a_file_open()
def test_numpy_of_numbers(): dependency.average_nothing()
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
    """What pytest says of CASES under the options of this repository."""
    folder = tmp_path_factory.mktemp("warnings")
    files = {
        "dependency.py": WARNERS,
        "edgesink_neighbour.py": WARNERS,
        "ours/toy.py": WARNERS + "from dependency import its_callers\nimport dependency\n",
        "tests/test_cases.py": CASES.format(folder=str(folder)),
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    options = ["-c", str(PYPROJECT), "--rootdir", str(folder), "-p", "no:cacheprovider", "-rA", "tests"]
    return run(["-m", "pytest", *options], folder).stdout


def run(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess:
    without = {name: value for name, value in os.environ.items() if name not in ("PYTHONWARNINGS", "PYTEST_ADDOPTS")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=without | environment, capture_output=True, text=True)


def cases(report: str, outcome: str) -> set[str]:
    return set(re.findall(rf"^{outcome} tests/test_cases\.py::test_(\w+)", report, re.MULTILINE))


def test_a_dependencys_warning_is_printed_only(report):
    passed = {
        "a_dependency_at_its_own_line",
        "a_dependency_called_by_a_dependency",
        "a_package_whose_name_begins_like_ours",
        "a_file_that_a_dependency_leaves_open",
        "pytest_plans_a_change",
    }
    assert cases(report, "PASSED") == passed, report
    assert "FutureWarning: raised inside" in report.partition("warnings summary")[2]


def test_a_warning_at_a_line_of_ours_is_an_error(report):
    failed = {
        "ours_at_its_own_line",
        "a_dependency_at_a_line_of_ours",
        "a_dependency_called_by_ours",
        "a_dependency_called_by_the_test",
        "a_file_that_we_leave_open",
        "numpy_of_numbers",
    }
    assert cases(report, "FAILED") == failed, report


def test_a_command_does_not_show_what_a_dependency_plans_unless_asked(tmp_path):
    code = (
        "import warnings, edgesink.cli\n"
        "edgesink.cli.app = lambda: warnings.warn('soon gone', FutureWarning)\n"
        "edgesink.cli.main()"
    )
    silent, asked = run(["-c", code], tmp_path), run(["-c", code], tmp_path, PYTHONWARNINGS="default")
    assert (silent.returncode, silent.stderr) == (0, "")
    assert asked.returncode == 0
    assert "soon gone" in asked.stderr
