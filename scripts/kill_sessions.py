"""Kill a chat again and again while it answers and saves its session: nothing but the running turn may be lost.

    python scripts/kill_sessions.py BUNDLE --kills 100

A child process resumes the session, asks "message 17" where 17 exchanges are kept, saves, says so, and asks on. It is
killed (SIGKILL) after a random time, `--kills` times. After each kill the session must open, hold every exchange that
was said to be saved, and at most one more. At the end its transcript must be that of one process that was never
killed: the same tokens, drawn with the same random numbers.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import edgesink
from edgesink.runtime.sampling import SamplingSpec
from edgesink.runtime.saved_chat import read_header
from edgesink.runtime.sessions import Session
from edgesink.runtime.transcript import Turn, exchanges

SAMPLING = SamplingSpec(temperature=0.9, top_p=0.95, seed=7)


def talk(bundle: Path, session: Path, tokens: int, most: int | None = None) -> tuple[Turn, ...]:
    """Resume the session and talk, up to `most` exchanges in all, saving after each and saying so on stdout."""
    chat = edgesink.Chat(edgesink.load(bundle, threads=1), "You are brief.", SAMPLING, "fit")
    with Session.open(session) as kept:
        kept.resume(chat)
        while most is None or exchanges(chat.turns) < most:
            for _ in chat.answer(f"This is message {exchanges(chat.turns)}. Say something about it.", tokens):
                pass
            kept.save(chat)
            print(exchanges(chat.turns), flush=True)
    return chat.turns


def killed(bundle: Path, session: Path, tokens: int, seconds: float) -> int:
    """Let a child talk for so long behind its first save, and kill it; the exchanges that it said were saved."""
    command = [sys.executable, __file__, str(bundle), "--session", str(session), "--tokens", str(tokens)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        lines = [first, *child.stdout.read().splitlines()]
    return max((int(line) for line in lines if line.strip()), default=0)


def check(bundle: Path, folder: Path, kills: int, tokens: int, longest_seconds: float, seed: int = 0) -> str:
    """Kill so often; a sentence for people. AssertionError says what was lost."""
    session, draw = folder / "killed.session", random.Random(seed)
    for _ in range(kills):
        said = killed(bundle, session, tokens, draw.uniform(0, longest_seconds))
        kept = exchanges(read_header(session).chat.turns)
        assert said > 0, "a child ended before it saved anything"
        assert said <= kept <= said + 1, f"{said} exchanges were saved, {kept} are kept"
    asked = exchanges(read_header(session).chat.turns)
    resumed = talk(bundle, session, tokens, asked + 1)
    whole = talk(bundle, folder / "whole.session", tokens, asked + 1)
    assert resumed == whole, "the conversation is not that of a process that was never killed"
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["killed.session", "whole.session"], f"leftovers: {left}"
    size = session.stat().st_size / 1e6
    return (
        f"{kills} kills, {asked} exchanges, {resumed[-1].end} tokens, {size:.1f} MB: no exchange lost, no token other"
    )


def main() -> None:
    """Read the options and run; the child is this script with --session."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=40, help="of an answer, at most")
    parser.add_argument("--longest-seconds", type=float, default=2.0, help="of a child's life behind its first save")
    parser.add_argument("--session", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.session is not None:
        talk(options.bundle, options.session, options.tokens)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(check(options.bundle, Path(folder), options.kills, options.tokens, options.longest_seconds))


if __name__ == "__main__":
    main()
