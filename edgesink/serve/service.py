"""The model that is served, and answers on their way from its thread to the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

from edgesink.errors import EdgesinkError
from edgesink.runtime.sampling import SamplingSpec
from edgesink.runtime.session import Stream
from edgesink.serve.answering import Emit, Event, Finished
from edgesink.serve.api_error import ApiError, refused
from edgesink.serve.conversations import Conversation, Conversations
from edgesink.serve.fields import Fields
from edgesink.serve.history import TurnWriter
from edgesink.serve.scheduler import Job, Scheduler
from edgesink.serve.settings import Settings

Steps = Callable[[Conversation, int, Emit], Iterator[None]]
"""(a conversation, places of the keys that it has read, where events go) -> an answer in steps."""


class Answer:
    """An answer on its way; `cancel` it when nobody waits for it any more."""

    def __init__(self, scheduler: Scheduler, begin: Callable[[Emit], Iterator[None] | None], seconds: float) -> None:
        loop, self._events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def emit(event: Event) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._events.put_nowait, event)

        self._scheduler, self._job = scheduler, Job(lambda: begin(emit), emit, time.monotonic() + seconds)
        scheduler.submit(self._job)

    def cancel(self) -> None:
        """End it before its next token; one that has ended stays as it is."""
        self._scheduler.cancel(self._job)

    async def events(self) -> AsyncIterator[Event]:
        """What comes of it, to the end; ApiError if it cannot be given, or breaks off."""
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Finished):
                return


class Service:
    """One model and its conversations."""

    def __init__(self, stream: Stream, settings: Settings) -> None:
        self.settings, self.manifest, self.tokenizer = settings, stream.manifest, stream.tokenizer
        self.state_bytes, self.runner = stream.state_bytes, stream.runner
        self.writer = TurnWriter(stream.manifest, stream.tokenizer) if stream.manifest.turns else None
        self.started = int(time.time())
        self.sampling = SamplingSpec(temperature=0.7, top_p=0.9)
        self.conversations = Conversations(stream, settings.limits.streams)
        self.scheduler = Scheduler(settings.limits.waiting)

    def answer(self, keys: list[str], steps: Steps) -> Answer:
        """An answer that waits for its turn; ApiError if there are too many."""
        return Answer(self.scheduler, lambda emit: self._begin(keys, steps, emit), self.settings.limits.request_seconds)

    def close(self) -> None:
        """Finish what runs or cancel it within the limit, and keep the conversations; the second time nothing."""
        self.scheduler.stop(self.settings.limits.stop_seconds)

    def _begin(self, keys: list[str], steps: Steps, emit: Emit) -> Iterator[None] | None:
        taken = self.conversations.take(keys)
        if taken is None:
            return None
        return self._steps(*taken, steps, emit)

    def _steps(self, conversation: Conversation, read: int, steps: Steps, emit: Emit) -> Iterator[None]:
        try:
            yield from steps(conversation, read, emit)
        except EdgesinkError as error:
            raise refused(error) from None
        finally:
            self.conversations.give_back(conversation)

    def check_model(self, fields: Fields) -> None:
        """ApiError if the request is for another model than the one that is served; none named is this one."""
        name = fields.text("model")
        if name is not None and name != self.settings.model:
            raise ApiError(
                f"There is no model {name[:80]!r} here, only {self.settings.model!r}.", 404, "model", "model_not_found"
            )

    def require_writer(self) -> TurnWriter:
        """ApiError where the model is not for conversations."""
        if self.writer is None:
            raise ApiError("This model is not for conversations. Use /v1/completions.", 400, "model")
        return self.writer
