"""What the README shows is run."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgesink.cli import app
from edgesink.models import DEFAULT_MODEL, MODELS

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_output_stands_by_line_20():
    assert "Paris" in "\n".join(README.splitlines()[:20])


def test_every_command_and_the_python_example_run(smollm2, tmp_path, monkeypatch, capsys):
    """In one folder, in order. The two installing commands are run by .ci/run."""
    monkeypatch.chdir(tmp_path)
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    assert commands
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "edgesink"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception}"
    for example in blocks("python"):
        exec(example, {})
    assert (tmp_path / "talk.session").is_file()


def test_every_link_into_the_repository_leads_somewhere():
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)", README):
        assert (root / target).exists(), target


def test_the_sizes_in_the_first_paragraph_are_the_default_bundles(smollm2_bundles):
    from edgesink.manifest import Manifest
    from edgesink.spec import StreamSpec

    manifest = Manifest.read(smollm2_bundles("int4", StreamSpec()))
    assert f"{manifest.weight_bytes / 1e6:.0f} MB of weights" in README.replace("\n", " ")
    assert manifest.has_kernels  # they hold the state in float16
    assert f"{manifest.state_bytes / 2e6:.0f} MB of state" in README.replace("\n", " ")


@pytest.mark.parametrize("name", MODELS)
def test_every_alias_can_be_told_from_a_path(name):
    assert "/" not in name
    assert name == name.lower()
    assert DEFAULT_MODEL in MODELS
