"""A terminal with a screen, in which a test types and reads: a pty of its own and pyte's emulator."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pyte

MAIN = "from edgesink.cli import main; main()"


class Screen(pyte.HistoryScreen):
    """pyte's, which answers what a program asks of its terminal."""

    def __init__(self, columns: int, lines: int, leader: int) -> None:
        super().__init__(columns, lines, history=10_000)
        self._leader = leader

    def write_process_input(self, data: str) -> None:
        os.write(self._leader, data.encode())


class Terminal:
    """`edgesink chat` at a terminal of so many columns."""

    def __init__(self, folder: Path, *words: object, columns: int = 80, lines: int = 24, code: str = MAIN) -> None:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen = Screen(columns, lines, self._leader)
        self._stream = pyte.ByteStream(self.screen)
        environment = os.environ | {"TERM": "xterm-256color", "EDGESINK_STATE": str(folder / "state")}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"import os, fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{code}",
             "chat", *map(str, words)],
            stdin=follower, stdout=follower, stderr=follower, cwd=folder, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(follower)

    @property
    def text(self) -> str:
        """All that was printed and stands, scrolled lines included, without spaces at the ends of lines."""
        gone = ["".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*gone, *self.screen.display]).rstrip()

    def send(self, keys: str) -> None:
        os.write(self._leader, keys.encode())

    def paste(self, text: str) -> None:
        """As a terminal with bracketed paste sends it, in pieces that it takes."""
        data = f"\x1b[200~{text}\x1b[201~".encode()
        for at in range(0, len(data), 1024):
            os.write(self._leader, data[at : at + 1024])
            self.read(0.01)

    def read(self, seconds: float) -> None:
        """Take over what is printed in the meantime."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and select.select([self._leader], [], [], left)[0]:
            try:
                self._stream.feed(os.read(self._leader, 65536))
            except OSError:  # the program has ended
                return

    def wait(self, *texts: str, count: int = 1, seconds: float = 60) -> str:
        """Until each text is there `count` times; what is printed by then."""
        end = time.monotonic() + seconds
        while any(self.text.count(text) < count for text in texts):
            assert time.monotonic() < end, f"no {texts} in\n{self.text}"
            assert self.process.poll() is None or self.text.count(texts[0]) >= count, f"it ended:\n{self.text}"
            self.read(0.05)
        return self.text

    def wait_for_prompt(self, seconds: float = 60) -> str:
        """Until the cursor stands behind an empty prompt."""
        end = time.monotonic() + seconds
        while True:
            line = self.screen.display[self.screen.cursor.y]
            if line.rstrip() == ">" and self.screen.cursor.x == 2:
                return self.text
            assert time.monotonic() < end, f"no prompt in\n{self.text}"
            assert self.process.poll() is None, f"it ended:\n{self.text}"
            self.read(0.05)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._leader)
