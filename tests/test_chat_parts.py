"""The parts of `edgesink chat` that need no terminal: Markdown as it grows, the status line, keys, commands."""

import io
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgesink.cli.chat import prompts
from edgesink.cli.chat.answers import MarkdownView
from edgesink.cli.chat.commands import COMMANDS
from edgesink.cli.chat.markdown import cut, harmless, rendered, split
from edgesink.cli.chat.status import Gauges, status_line
from edgesink.cli.chat.typed import as_text
from edgesink.spec import StreamSpec

ANSWER = """# Plan

First a *paragraph*
of two lines, with vector<int> in it.

1. one
2. two

```python
print("a")

print("b")
```

[1]: a reference
"""


def plain(block: str, width: int = 60) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(rendered(block))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_a_finished_block_is_one_that_the_rest_cannot_change():
    assert split("") == ([], "")
    assert split("one\ntwo") == ([], "one\ntwo")
    assert split("one\n\ntwo") == (["one\n\n"], "two")
    assert split("- a\n\n- b") == ([], "- a\n\n- b")
    assert split("```\na\n\nb") == ([], "```\na\n\nb")
    assert [block.split("\n")[0] for block in split(ANSWER)[0]] == [
        "# Plan", "First a *paragraph*", "1. one", "```python",
    ]  # fmt: skip


def test_nothing_that_the_model_wrote_is_lost():
    assert plain("a <b>bold</b> vector<int>\n<script>x</script>") == "a <b>bold</b> vector<int>\n<script>x</script>"
    assert plain("roses are red\nviolets are blue") == "roses are red\nviolets are blue"
    assert plain("```python\nif x:\n    y()\n```") == "if x:\n    y()"
    assert plain("[1]: a reference") == "[1]: a reference"
    assert "https://example.org/x" in plain("[a link](https://example.org/x)")
    assert harmless("a\x1b]0;title\x07\x9b2Jb\tc\r\n") == "a\ufffd]0;title\ufffd\ufffd2Jb\tc\n"


def test_a_block_that_does_not_end_is_cut_and_goes_on_as_what_it_is():
    assert cut("word " * 10, 22) == ("word word word word ", "word word word word word word ")
    assert cut("x" * 10, 4) == ("xxxx", "xxxxxx")
    code = "```python\n" + "line\n" * 10
    assert cut(code, 22) == ("```python\nline\nline\n", "```python\n" + "line\n" * 8)


@given(st.text(alphabet="ab \n#-*`>1.|<[]:\u2028\x0c", max_size=60))
def test_the_blocks_and_the_rest_are_the_whole_text(text):
    blocks, rest = split(text)
    assert "".join([*blocks, rest]).strip("\n") == text.strip("\n")


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_what_stands_at_the_end_does_not_depend_on_the_pieces_it_came_in(step, monkeypatch):
    monkeypatch.setattr("edgesink.cli.chat.answers._SECONDS_BETWEEN_DRAWINGS", 0)
    out = io.StringIO()
    view = MarkdownView(Console(file=out, width=60))  # no terminal: what is drawn in between is not shown
    for _ in range(2):
        for at in range(0, len(ANSWER), step):
            view.push(ANSWER[at : at + step])
        view.finish(stopped=False)
    once = "\n\n".join(plain(part).strip("\n") for part in [*split(ANSWER)[0], split(ANSWER)[1]])
    lines = [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]
    assert lines == [line for line in once.splitlines() if line] * 2


def test_the_status_line_says_as_much_as_fits():
    gauges = Gauges("SmolLM2-135M-Instruct", 512, 1024, 24, 1234, 25_000_000, 41.4)
    assert status_line(gauges, 160) == (
        "SmolLM2-135M-Instruct · ▰▰▰▰▱▱▱▱ 512/1024 tokens held, 24 pinned · 1234 forgotten · 41 tokens/s · "
        "25 MB of state, always"
    )
    assert status_line(gauges, 80) == "▰▰▰▰▱▱▱▱ 512/1024 · 1234 forgotten · 41 tokens/s · 25 MB"
    assert status_line(gauges, 40) == "512/1024 · 1234 forgotten · 41/s · 25 MB"
    assert status_line(gauges, 10) == "512/1024"
    assert status_line(gauges, 5) == ""


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("hello", "hello"),
        ("one\rtwo\r", "one\ntwo"),
        ("\x1b[200~a\r\nb\x1b[201~", "a\nb"),
        ("helo\x7flo", "hello"),
        ("wrong\x15right", "right"),
        ("two words\x17", "two"),
        ("\x1b[A\x1b[1;5Cx\x1bOPy\x03", "xy"),
        ("\x7f", ""),
    ],
)
def test_what_is_typed_during_an_answer_becomes_text(keys, text):
    assert as_text(keys).rstrip() == text


def test_the_history_is_private_and_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGESINK_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(prompts, "HISTORY_BYTES", 400)
    for number in range(40):
        prompts._history().store_string(f"message {number}\nof two lines")
    path = tmp_path / "state" / "history" / "messages"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size < 600
    kept = list(prompts._history().load_history_strings())
    assert kept[0] == "message 39\nof two lines"
    assert all(message.startswith("message") for message in kept)


def test_without_a_place_for_it_the_history_lasts_as_long_as_the_chat(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGESINK_STATE", str(tmp_path / "file"))
    assert list(prompts._history().load_history_strings()) == []
    assert "no history is kept" in capsys.readouterr().err


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("commands") / "bundle", StreamSpec(3, 253, 64, 8))


@pytest.fixture
def said(bundle, command, monkeypatch):
    """said(*lines) -> what a chat says to them on stderr, through a pipe."""

    def run(*lines):
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
        code, _, err = command("chat", bundle, "--max-new-tokens", 4, "--temperature", 0)
        assert code == 0
        return err.splitlines()

    return run


def test_every_command_has_its_line_of_help_and_what_is_none_is_said_to_be_none(said):
    lines = said("/help", "/nonsense", "/save", "/exit", "never read")
    assert [line.split()[0] for line in lines[: len(COMMANDS)]] == [command.name for command in COMMANDS]
    assert lines[-2] == "/nonsense is no command; /help lists them. To send it as a message, put a space before it"
    assert lines[-1] == "/save needs FILE: write a copy of the conversation to FILE"


def test_the_commands_are_those_of_the_docs():
    text = (Path(__file__).parent.parent / "docs" / "chat.md").read_text(encoding="utf-8")
    shown = [f"| `{f'{one.name} {one.argument}'.strip()}` | {one.help[0].upper()}{one.help[1:]}. |" for one in COMMANDS]
    assert [line for line in text.splitlines() if line.startswith("| `/")] == shown


def test_a_conversation_is_taken_back_changed_and_begun_anew(said, tmp_path):
    def held(*lines):
        return [line for line in said(*lines, "/stats") if line.startswith("memory")][-1]

    assert held("hello", "again", "/undo") == held("hello")
    assert held("hello", "/retry") == held("hello")
    assert held("hello", "/edit goodbye") == held("goodbye")
    assert held("hello", "/reset") == held("/undo")
    assert held("hello", f"/save {tmp_path / 'x'}", "again", f"/load {tmp_path / 'x'}") == held("hello", "/save /x/y")
    assert "0 of 256 tokens held (0 pinned)" in held("hello", "/system Be brief.")
    pinned = len("B" + "system: Be brief." + "E" + "B" + "user: ")  # B and E are one token each
    assert f"({pinned} pinned)" in held("/system Be brief.", "hello")
    assert "(5 pinned)" in held("/sinks 5", "hello")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("/undo", "nothing has been said"),
        ("/retry", "nothing to take back"),
        ("/edit", "expected /edit TEXT"),
        ("/set temperature hot", "temperature 'hot'; expected a number"),
        ("/set temperature -1", "temperature = -1.0; expected 0 or more"),
        ("/set colour red", "expected one of temperature, top_k"),
        ("/set top-p 0.5", "always the most likely token"),
        ("/set temperature=0.5", "(temperature 0.5, top-p 0.9)"),
        ("/set max_new_tokens 7", "(max_new_tokens 7)"),
        ("/sinks 99", "0 to 64"),
        ("/memory", "there is no memory beyond the window"),
        ("/load nowhere", "no session file"),
    ],
)
def test_a_command_that_cannot_be_done_says_why_and_the_chat_goes_on(said, line, answer):
    lines = said(line, "/stats")
    assert answer in lines[0]
    assert lines[-7].startswith("model")
