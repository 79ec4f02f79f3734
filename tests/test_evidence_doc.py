"""docs/evidence.md: its commands are commands, its figures are there and small."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from edgesink.cli import app

DOC = Path(__file__).parent.parent / "docs" / "evidence.md"
TEXT = DOC.read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (edgesink (?:.|\\\n)*?[^\\])$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split()[1:3]))
def test_every_command_shown_has_the_options_that_it_is_shown_with(command):
    words = shlex.split(re.sub(r"\[[^\]]*\]|\\\n", " ", command))[1:]
    found = typer.main.get_command(app)
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    found.make_context(found.name, words)  # raises where an option is unknown or a value does not fit


def test_there_are_commands_and_nothing_was_left_to_fill_in():
    assert len(COMMANDS) >= 7
    assert not re.search(r"@[A-Z]+@", TEXT)


def test_every_figure_is_there_and_small():
    figures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT)
    assert len(figures) >= 4
    for figure in figures:
        assert (DOC.parent / figure).stat().st_size < 150_000, figure
