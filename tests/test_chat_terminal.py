"""`edgesink chat` at a terminal, as its user sees it: a real model, a pty, and the screen that comes of it."""

import stat

import pytest
from terminal import Terminal

from edgesink.spec import StreamSpec

FAILS_ON_DEMAND = """
import os
from edgesink.errors import RunFailed
from edgesink.runtime.session import Stream
feed = Stream.feed
def failing(self, *arguments):
    if os.path.exists("fail"):
        raise RunFailed("the graph stopped")
    return feed(self, *arguments)
Stream.feed = failing
from edgesink.cli import main
main()
"""


@pytest.fixture(scope="module")
def bundle(smollm2_bundles):
    return smollm2_bundles("int4", StreamSpec.fitted(window=252))


@pytest.fixture
def terminal(tmp_path):
    """terminal(*words, **size) -> `edgesink chat` with these words; it ends with the test."""
    opened = []

    def start(*words, **options):
        opened.append(Terminal(tmp_path, *words, **options))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_a_conversation_at_a_terminal(bundle, terminal, tmp_path):
    """Three pasted lines, a stop in prefill, an error in a turn, and exact undo, in one conversation."""
    chat = terminal(bundle, "--temperature", 0, "--max-new-tokens", 24, code=FAILS_ON_DEMAND)
    chat.wait_for_prompt()
    chat.wait("0/256")

    chat.paste("one line,\nanother line,\nthe third line: what is 2+2?")  # nothing is sent by a paste
    chat.wait("the third line")
    chat.send("\r")
    chat.wait_for_prompt()
    first = chat.text
    assert "> one line,\n  another line,\n  the third line: what is 2+2?\n" in first
    chat.send("/stats\r")
    chat.wait("turns     2; 1 of the last exchanges")

    chat.wait_for_prompt()
    chat.paste("word " * 3000)
    chat.send("\r")
    chat.wait("reading: ")
    chat.send("\x03typed meanwhile")  # and what is typed is no part of what is printed
    chat.wait("> typed meanwhile")
    assert "(the message is 3001 tokens and the window 232: the answer does not see" in " ".join(chat.text.split())
    assert chat.text.count("typed meanwhile") == 1
    chat.send("\x15/stats\r")
    chat.wait("turns     3; 2 of the last exchanges")

    (tmp_path / "fail").touch()
    chat.wait_for_prompt()
    chat.send("Are you there?\r")
    chat.wait("the graph stopped")
    (tmp_path / "fail").unlink()

    chat.wait_for_prompt()
    chat.send("/nonsense\r")
    chat.wait("/nonsense is no command")
    chat.wait_for_prompt()
    chat.send("/undo\r")
    chat.wait("(taken back, as if it had never been: word word")
    chat.wait_for_prompt()
    chat.send("/undo\r")
    chat.wait("(taken back, as if it had never been: one line, another line")
    chat.wait_for_prompt()
    chat.send("\x1b[A")  # the last line of the history
    chat.wait("> /undo", count=3)
    chat.send("\x03/quit\r")
    assert chat.process.wait(30) == 0

    history = tmp_path / "state" / "history" / "messages"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "+one line,\n+another line,\n+the third line" in history.read_text()


@pytest.mark.parametrize(("columns", "status"), [(40, "0 forgotten · "), (160, "tokens held, ")])
def test_a_narrow_and_a_wide_terminal(bundle, terminal, columns, status):
    chat = terminal(bundle, "--temperature", 0, "--max-new-tokens", 30, columns=columns)
    chat.wait_for_prompt()
    chat.send("Write two sentences about the sea.\r")
    chat.wait_for_prompt()
    chat.wait(status, "/s ·", " MB")
    chat.send("\x04")
    assert chat.process.wait(30) == 0
    answer = chat.text.split("about the sea.", 1)[1]
    assert max(map(len, answer.splitlines())) <= columns
    assert len(answer.split()) > 10
