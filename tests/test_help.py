"""The help texts are plain English: complete, punctuated, and free of words that a newcomer must guess."""

import inspect
import re
from collections.abc import Iterator

import click
import pytest
import typer

from edgesink.cli import app

BANNED = (
    "for ever",
    "beside",
    " is no ",
    "of the draws",
    "so many",
    "told",
    "the likeliest",
    "go on from",
    "ours",
    "TODO",
)
COMMAND_LIST_WIDTH = 64  # characters left of 80 for the first sentence of a command in `edgesink --help`


def commands(command: click.Command, name: str = "edgesink") -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, groups included."""
    yield name, command
    for child, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {child}")


COMMANDS = dict(commands(typer.main.get_command(app)))
PARAMETERS = {
    f"{name} {parameter.name}": parameter.help for name, command in COMMANDS.items() for parameter in command.params
}
DOCSTRINGS = {name: inspect.cleandoc(command.help or "") for name, command in COMMANDS.items()}
TEXTS = {**PARAMETERS, **DOCSTRINGS}


def test_the_walk_finds_every_command():
    assert {"edgesink", "edgesink export", "edgesink bench", "edgesink eval", "edgesink eval ppl"} <= COMMANDS.keys()
    assert len(PARAMETERS) > 100


@pytest.mark.parametrize("name", TEXTS)
def test_a_help_text_is_a_full_phrase(name):
    text = TEXTS[name]
    assert text, "no help text"
    assert re.match(r"[A-Z]", text), text
    assert not text.startswith("Of "), "say what it is: 'Weight precision.'"
    assert text.endswith("."), text
    assert len(text.split()) > 1, text


@pytest.mark.parametrize("name", TEXTS)
def test_a_help_text_has_no_riddle(name):
    assert [word for word in BANNED if re.search(rf"\b{re.escape(word.strip())}\b", TEXTS[name], re.IGNORECASE)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_first_sentence_fits_the_list_of_commands(name):
    first = DOCSTRINGS[name].splitlines()[0]
    assert first.endswith(".")
    assert len(first) <= COMMAND_LIST_WIDTH or name == "edgesink", first


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_without_a_value_names_its_default(name):
    optional = [p for p in COMMANDS[name].params if p.default is None and not p.required and "--help" not in p.opts]
    switches = {"message", "system", "session", "stop", "progress", "plot"}  # without them nothing happens
    assert [p.name for p in optional if "Default: " not in p.help and p.name not in switches] == []
