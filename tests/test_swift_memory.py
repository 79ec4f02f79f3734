"""The Swift memory is the Python one: the same golden answers, the same schema, and files that go there and back."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from edgesink.memory.archive_file import SCHEMA

HERE = Path(__file__).parent
SOURCES = HERE.parent / "apps" / "ios" / "EdgesinkKit" / "Sources" / "EdgesinkMemory"


def load(name: str):
    location = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


def test_the_golden_answers_are_current():
    """Run make_golden_memory.py where they are not, and then `swift test`, which holds Swift to them."""
    made = load("make_golden_memory")
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
