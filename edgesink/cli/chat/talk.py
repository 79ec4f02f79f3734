"""A conversation with somebody: the model's side, where its answers are shown, and what the next prompt begins with.

Owns what lies between a message and its answer: the warning before a message longer than the window, and what is typed
meanwhile. Knows no commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edgesink.cli.chat.answers import Spoken, View, speak
from edgesink.cli.chat.status import Gauges
from edgesink.cli.chat.typed import Typed
from edgesink.cli.output import say
from edgesink.errors import BadOption
from edgesink.runtime.chat import Chat
from edgesink.runtime.generate import Token


@dataclass
class Talk:
    """A conversation with somebody."""

    chat: Chat
    view: View
    max_new_tokens: int | None = None
    typed: Typed | None = None
    can_draft: bool = False  # the prompt can begin with a text to edit
    draft: str = ""  # which the next prompt begins with
    spoken: Spoken | None = None  # the last answer
    is_over: bool = field(default=False, init=False)

    @property
    def gauges(self) -> Gauges:
        """Its numbers now."""
        return Gauges.of(self.chat, None if self.spoken is None else self.spoken.tokens_per_second)

    def last_message(self) -> str:
        """The one that can be taken back; BadOption if there is none."""
        asked = [turn.text for turn in self.chat.turns if turn.role == "user"]
        if not asked:
            raise BadOption("nothing to take back", "a message before it")
        return asked[-1]

    def answer(self, message: str) -> None:
        """Show the answer to a message."""
        self.speak(lambda: self.chat.answer(message, self.max_new_tokens), message)

    def speak(self, tokens: Callable[[], Iterator[Token]], message: str) -> None:
        """Show an answer, and before it what of its message is forgotten by then.

        Args:
            tokens: begins the answer.
            message: what it answers, for the warning.
        """
        size, lost = self.chat.forgotten(message)
        if lost:
            window = self.chat.stream.window
            say(f"(the message is {size} tokens and the window {window}: the answer does not see the first {lost})")
        self.spoken = speak(tokens(), self.chat.stream, self.view, self.typed, size)
        if self.typed is not None:
            self.draft = self.typed.take()
