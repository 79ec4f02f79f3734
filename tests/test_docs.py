"""docs/*.md with commands: their commands are commands, their figures are there and small.

docs/bundle.md: it has every field of the manifest, and no other.
"""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import typer

from edgesink.cli import app
from edgesink.manifest import BundleFile, Manifest, Parity, State
from edgesink.runtime.session_file import HEADER
from edgesink.sampling_defaults import SamplingDefaults
from edgesink.spec import LayerRing, StreamSpec

DOCS = Path(__file__).parent.parent / "docs"
NAMES = ("chat.md", "evidence.md", "memory.md", "sessions.md", "sink-token.md", "speed.md")
TEXTS = {name: (DOCS / name).read_text(encoding="utf-8") for name in NAMES}
COMMANDS = [
    command
    for text in TEXTS.values()
    for command in re.findall(r"^    (edgesink (?:.|\\\n)*?[^\\])$", text, re.MULTILINE)
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split()[1:3]))
def test_every_command_shown_has_the_options_that_it_is_shown_with(command):
    words = shlex.split(re.sub(r"\[[^\]]*\]|\\\n", " ", command))[1:]
    found = typer.main.get_command(app)
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    found.make_context(found.name, words)  # raises where an option is unknown or a value does not fit


@pytest.mark.parametrize("name", TEXTS)
def test_nothing_was_left_to_fill_in(name):
    assert not re.search(r"@[A-Z]+@", TEXTS[name])


def test_every_figure_is_there_and_small():
    figures = [figure for text in TEXTS.values() for figure in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)]
    assert len(COMMANDS) >= 12
    assert len(figures) >= 6
    for figure in figures:
        assert (DOCS / figure).stat().st_size < 150_000, figure


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("## The manifest", Manifest), ("### `stream`", StreamSpec), ("### `views`", LayerRing),
        ("### `states`", State), ("### `files`", BundleFile), ("### `parity`", Parity),
        ("### `sampling`", SamplingDefaults),
    ],
)  # fmt: skip
def test_every_field_of_the_manifest_is_described(heading, kind):
    assert described(heading) == [field.name for field in dataclasses.fields(kind)]


def test_every_header_field_of_a_session_file_is_described():
    assert set(described("## Session files")) == HEADER


def described(heading: str) -> list[str]:
    """The names in the first column of the table under a heading of docs/bundle.md."""
    text = (DOCS / "bundle.md").read_text(encoding="utf-8")
    section = re.split(r"^#", text.split(heading + "\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
