"""How an answer is shown while it comes: as plain text, or as Markdown on a terminal.

Owns what is printed of an answer and its speed. Plain text goes to stdout token by token. On a terminal, finished
blocks are printed once, and only the last is drawn anew below them, at most a dozen times a second and never taller
than the screen. Knows a conversation only where it has to be stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edgesink.cli.chat.interrupts import stoppable
from edgesink.cli.chat.markdown import cut, harmless, rendered, split
from edgesink.cli.chat.typed import Typed, kept_apart
from edgesink.runtime.generate import Token
from edgesink.runtime.session import Stream

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

STOPPED = " …"
LONGEST_BLOCK = 8192  # characters; an answer without an end may be one paragraph, and memory is bounded
LONG_READING = 256  # tokens; the progress of shorter messages is not worth a line
_SECONDS_BETWEEN_DRAWINGS = 1 / 12


class View(Protocol):
    """Where one answer after another is shown."""

    def reading(self, done: int, total: int) -> None:
        """So many tokens of the message are read; nothing is answered yet."""

    def push(self, text: str) -> None:
        """More of the answer."""

    def finish(self, stopped: bool) -> None:
        """The answer has ended, or it was stopped."""


class PlainView:
    """Text as it comes, to stdout; to a terminal without characters that would command it."""

    def __init__(self) -> None:
        self._is_terminal = bool(sys.stdout and sys.stdout.isatty())

    def reading(self, done: int, total: int) -> None:
        """Nothing: stdout is for the answer."""

    def push(self, text: str) -> None:
        """See `View`."""
        print(harmless(text) if self._is_terminal else text, end="", flush=True)

    def finish(self, stopped: bool) -> None:
        """See `View`."""
        print(STOPPED if stopped else "", flush=True)


class MarkdownView:
    """Markdown on a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(highlight=False)
        self._text, self._printed, self._next_drawing = "", 0, 0.0
        self._live = self._new_live()

    def reading(self, done: int, total: int) -> None:
        """See `View`."""
        from rich.text import Text

        if total >= LONG_READING and self._is_due():
            begin = time.monotonic()
            self._live.start()
            self._live.update(Text(f"reading: {min(done, total)} of {total} tokens", style="dim"), refresh=True)
            self._drawn_in(begin)

    def push(self, text: str) -> None:
        """See `View`."""
        self._text += harmless(text)
        if self._is_due():
            self._draw()

    def finish(self, stopped: bool) -> None:
        """See `View`; the view is then ready for the next answer."""
        self._text += STOPPED if stopped else ""
        self._draw()
        self._live.update("", refresh=True)
        self._live.stop()
        if self._text.strip():
            self._print(self._text)
        self._text, self._printed, self._next_drawing = "", 0, 0.0
        self._live = self._new_live()

    def _new_live(self) -> Live:
        from rich.live import Live

        return Live(console=self._console, auto_refresh=False, transient=True, vertical_overflow="visible")

    def _is_due(self) -> bool:
        return time.monotonic() >= self._next_drawing

    def _draw(self) -> None:
        begin = time.monotonic()
        self._live.start()
        finished, self._text = split(self._text)
        if len(self._text) > LONGEST_BLOCK:
            block, self._text = cut(self._text, LONGEST_BLOCK)
            finished.append(block)
        if finished:
            self._live.update("", refresh=True)
        for block in finished:
            self._print(block)
        self._live.update(_LastLines(self._text, gap=self._printed > 0), refresh=True)
        self._drawn_in(begin)

    def _drawn_in(self, begin: float) -> None:
        """A drawing that took long is followed by a longer pause: most of the time is the model's."""
        end = time.monotonic()
        self._next_drawing = end + max(_SECONDS_BETWEEN_DRAWINGS, 5 * (end - begin))

    def _print(self, block: str) -> None:
        if self._printed:
            self._console.print()
        self._console.print(rendered(block))
        self._printed += 1


@dataclass(frozen=True)
class _LastLines:
    """The end of a block that is still written: as many lines as the screen can take without scrolling."""

    block: str
    gap: bool  # an empty line stands before it

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        lines = console.render_lines(rendered(self.block), options, pad=False)
        if self.gap:
            lines.insert(0, [])
        for line in lines[-max(1, console.size.height - 2) :]:
            yield from line
            yield Segment.line()


@dataclass(frozen=True)
class Spoken:
    """How an answer went."""

    tokens: int
    first_seconds: float  # until the first token was there
    seconds: float  # from then on
    stopped: bool  # by Ctrl-C

    @property
    def tokens_per_second(self) -> float | None:
        """Of decoding; None where there is too little of it."""
        return (self.tokens - 1) / self.seconds if self.tokens > 1 and self.seconds > 0 else None

    @property
    def words(self) -> str:
        """For people; "" for an answer of one token."""
        speed = self.tokens_per_second
        return "" if speed is None else f"{speed:.0f} tokens/s, first after {self.first_seconds:.2f} s"


def speak(
    tokens: Iterator[Token], stream: Stream, view: View, typed: Typed | None = None, reading_tokens: int = 0
) -> Spoken:
    """Show an answer as it comes; Ctrl-C ends it, also while its message is still being read.

    Args:
        tokens: what to show; closed at the end.
        stream: where they are made.
        view: where to show them.
        typed: takes what is typed meanwhile.
        reading_tokens: to be read before the first token, for the progress.
    """
    begin, start, first, count = stream.position, time.perf_counter(), 0.0, 0

    def on_chunk() -> None:
        if typed is not None:
            typed.poll()
        if not count:
            view.reading(stream.position - begin, reading_tokens)

    stopped = False
    with kept_apart(typed):
        try:
            with stoppable(stream, on_chunk) as between_tokens:
                for token in tokens:
                    first = first or time.perf_counter()
                    count += 1
                    view.push(token.text)
                    between_tokens()
        except KeyboardInterrupt:
            stopped = True
        finally:
            tokens.close()  # type: ignore[attr-defined]
            view.finish(stopped)
    first = first or time.perf_counter()
    return Spoken(count, first - start, time.perf_counter() - first, stopped)
