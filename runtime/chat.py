"""A conversation without end: each turn is fed once, and nothing is rendered twice.

Owns the chat template (jinja2, as the checkpoint ships it) and how a turn is cut out of it. A conversation is never
rendered whole, since it has no end: the first turn is rendered with the system prompt, and every later one is what the
template puts between an answer that came before and the answer to come.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox

from edgesink.errors import BadBundle, BadOption
from edgesink.manifest import CHAT_TEMPLATE
from edgesink.runtime.generate import Token, generate
from edgesink.runtime.sampling import SamplingSpec
from edgesink.runtime.session import Stream
from edgesink.runtime.tokenizer import Tokenizer

_EARLIER = "\u2982edgesink-earlier\u2982"  # an answer that no template and no user writes

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}."""


class ChatTemplate:
    """A bundle's chat template."""

    def __init__(self, source: str, special: dict[str, str]) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise BadBundle(f"{CHAT_TEMPLATE} cannot be read ({error})", "", "export the bundle again") from None
        self._special = special

    @classmethod
    def of_bundle(
        cls, bundle: Path, tokenizer: Tokenizer, bos_id: int | None, eos_ids: tuple[int, ...]
    ) -> ChatTemplate:
        """Read `chat_template.jinja`; BadBundle if the model has none."""
        path = bundle / CHAT_TEMPLATE
        if not path.is_file():
            raise BadBundle(f"no {CHAT_TEMPLATE} in {bundle}", "a chat model", "use `edgesink generate`")
        special = {
            "bos_token": (tokenizer.text_of(bos_id) if bos_id is not None else None) or "",
            "eos_token": (tokenizer.text_of(eos_ids[0]) if eos_ids else None) or "",
        }
        return cls(path.read_text(encoding="utf-8"), special)

    def render(self, messages: list[Message], add_generation_prompt: bool = False) -> str:
        """The text of a whole conversation; BadOption with the template's own words if it refuses."""
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._special
            )
        except jinja2.TemplateError as error:
            raise BadOption(f"the chat template refuses this conversation ({error})") from None

    def first_turn(self, message: str, system: str | None) -> str:
        """From the beginning of the conversation to where the first answer starts."""
        return self.render([*_system(system), {"role": "user", "content": message}], add_generation_prompt=True)

    def next_turn(self, message: str) -> str:
        """From the end of an answer's text to where the next one starts."""
        earlier = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _EARLIER}]
        text = self.render([*earlier, {"role": "user", "content": message}], add_generation_prompt=True)
        _, found, turn = text.partition(_EARLIER)
        if not found:
            raise BadBundle("the chat template drops earlier answers", "one that keeps them", "use `edgesink generate`")
        return turn

    def system_turn(self, system: str) -> str:
        """What stands before the first user message: the part that a stream may pin."""
        text = self.first_turn(_EARLIER, system)
        return text.partition(_EARLIER)[0]


class Chat:
    """A conversation on a stream.

    Attributes:
        stream: where the conversation is; its `evicted` says how much has been forgotten.
        sampling: how answers are chosen; may be replaced between turns.
    """

    def __init__(
        self, stream: Stream, system: str | None = None, sampling: SamplingSpec | None = None, pin_system: bool = False
    ) -> None:
        self.stream = stream
        self.sampling = sampling or SamplingSpec()
        manifest = stream.manifest
        self._template = ChatTemplate.of_bundle(stream.bundle, stream.tokenizer, manifest.bos_id, manifest.eos_ids)
        self._system = system
        self._unfed: list[int] = []  # the last token of an answer that was cut short
        if pin_system:
            self.pin_system()

    def pin_system(self) -> None:
        """Start anew with the whole system prompt as sinks; BadOption if the bundle cannot pin that many."""
        prompt = self._template.system_turn(self._system or "")
        prefix = self.stream.manifest.prefix
        self.stream.reset(sinks=len(prefix) + len(self.stream.tokenizer.encode(prompt)))

    def reset(self) -> None:
        """Start a new conversation with the same system prompt and sinks."""
        self.stream.reset()
        self._unfed = []

    def save(self, path: Path) -> None:
        """Write the conversation to a session file: what the model still remembers, not a transcript."""
        if self._unfed:
            self.stream.feed(self._unfed)
            self._unfed = []
        self.stream.save(path)

    def restore(self, path: Path) -> None:
        """Go on from a session file; BadSession leaves the conversation as it was."""
        self.stream.restore(path)
        self._unfed = []

    def answer(self, message: str, max_new_tokens: int | None = None) -> Iterator[Token]:
        """Feed a message and yield the answer. Stop asking, and the next message goes on from what was said."""
        if self.stream.position == 0:
            text = self._template.first_turn(message, self._system)
        else:
            text = self._template.next_turn(message)
        ids = [*self._unfed, *self.stream.tokenizer.encode(text)]
        self._unfed = []
        for token in generate(self.stream, ids, self.sampling, max_new_tokens):
            self._unfed = [] if token.id in self.stream.manifest.eos_ids else [token.id]
            yield token


def _system(system: str | None) -> list[Message]:
    return [] if system is None else [{"role": "system", "content": system}]


def _refuse(message: str) -> Any:
    raise jinja2.TemplateError(message)
