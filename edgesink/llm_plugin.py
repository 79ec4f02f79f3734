"""`llm -m edgesink -o model smollm2-135m "Hello"`: every model in the `llm` command and library.

A prompt comes with all that was said before; what the stream has read of it is not read again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import llm
from llm.parts import TextPart
from pydantic import Field

import edgesink
from edgesink.bundles import find_bundle
from edgesink.errors import BadOption
from edgesink.models import DEFAULT_MODEL
from edgesink.runtime.sampling import SamplingSpec
from edgesink.sampling_defaults import CHAT_SAMPLING


class Edgesink(llm.Model):
    """One stream, which knows one conversation at a time. Not for two threads at once."""

    model_id, can_stream = "edgesink", True
    _open: tuple[str, edgesink.Chat] | None = None

    class Options(llm.Options):
        """What is None is as the model's makers recommend."""

        model: str = Field(DEFAULT_MODEL, description="A short name, a bundle, a GGUF file, a folder or a hub id")
        temperature: float | None = Field(None, ge=0, description="0 takes the likeliest token")
        seed: int | None = Field(None, ge=0, description="Makes answers repeatable")
        max_tokens: int | None = Field(None, ge=1, description="The longest answer")

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[str]:
        """The answer, piece by piece; EdgesinkError as `edgesink.Chat`."""
        told = [(one.role, "".join(p.text for p in one.parts if isinstance(p, TextPart))) for one in prompt.messages]
        system = "\n\n".join(text for role, text in told if role == "system") or None
        said = [(role, text) for role, text in told if role != "system"]
        if [role for role, _ in said] != ["user", "assistant"] * (len(said) // 2) + ["user"]:
            raise BadOption("messages that do not take turns", "user and assistant in turns, and a user last")
        *before, message = [text for _, text in said]
        if self._open is None or prompt.options.model != self._open[0]:
            self._open = None  # its memory, before another takes some
            loaded = edgesink.load(find_bundle(prompt.options.model))
            self._open = prompt.options.model, edgesink.Chat(loaded, system, pin="fit")
        chat = self._open[1]
        if (chat.system, [turn.text for turn in chat.turns if turn.role != "system"]) != (system, before):
            chat.reset(system)
            for place in range(0, len(before), 2):
                chat.read(before[place], before[place + 1])
        own, options = chat.stream.manifest.sampling or CHAT_SAMPLING, prompt.options
        chat.sampling = SamplingSpec.of_model(own, temperature=options.temperature, seed=options.seed)
        yield from (token.text for token in chat.answer(message, options.max_tokens))


@llm.hookimpl
def register_models(register: Any) -> None:
    """Called by llm."""
    register(Edgesink())
