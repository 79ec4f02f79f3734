"""The model that is served, and answers on their way from its thread to the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

from edgesink.errors import BadOption
from edgesink.manifest import CHAT_TEMPLATE
from edgesink.runtime.sampling import SamplingSpec
from edgesink.runtime.session import Stream
from edgesink.sampling_defaults import CHAT_SAMPLING
from edgesink.serve.answering import Delta, Emit, Event, Finished, Recalled, Wanted, reply
from edgesink.serve.api_error import ApiError, refused
from edgesink.serve.conversations import Conversation, Conversations
from edgesink.serve.dialects import Dialect, dialect_of
from edgesink.serve.fields import Fields
from edgesink.serve.grammar import Grammars
from edgesink.serve.history import TurnWriter
from edgesink.serve.memories import Memories
from edgesink.serve.metrics import Metrics
from edgesink.serve.prompts import ChatPrompt, Prompt
from edgesink.serve.saved import SavedConversations
from edgesink.serve.scheduler import Job, Scheduler
from edgesink.serve.settings import Settings


class Answer:
    """An answer on its way; `cancel` it when nobody waits for it any more."""

    def __init__(
        self, scheduler: Scheduler, begin: Callable[[Emit], Iterator[None] | None], seconds: float, metrics: Metrics
    ) -> None:
        loop, self._events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def emit(event: Event) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._events.put_nowait, event)

        self._scheduler, self._metrics, self._start = scheduler, metrics, time.monotonic()
        self._job = Job(lambda: begin(emit), emit, self._start + seconds)
        self._ended = False
        scheduler.submit(self._job)

    def cancel(self) -> None:
        """End it before its next token; one that has ended stays as it is."""
        if not self._ended:
            self._end("cancelled")
        self._scheduler.cancel(self._job)

    async def events(self) -> AsyncIterator[Event]:
        """What comes of it, to the end; ApiError if it cannot be given, or breaks off."""
        is_first = True
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                self._end("failed")
                raise event
            seconds = time.monotonic() - self._start
            if is_first and isinstance(event, Delta):
                is_first = False
                self._metrics.first_token(seconds)
            if isinstance(event, Recalled):
                self._metrics.searched(event.brought)
            if isinstance(event, Finished):
                usage, self._ended = event.usage, True
                self._metrics.answered(event.reason, usage.prompt - usage.cached, usage.cached, usage.answer, seconds)
                yield event
                return
            yield event

    def _end(self, how: str) -> None:
        self._ended = True
        self._metrics.failed(how)


class Service:
    """One model and its conversations."""

    def __init__(self, stream: Stream, settings: Settings) -> None:
        self.settings, self.manifest, self.tokenizer = settings, stream.manifest, stream.tokenizer
        self.state_bytes, self.runner = stream.state_bytes, stream.runner
        self.fingerprint = f"edgesink-{stream.manifest.fingerprint[:12]}"
        self.started = int(time.time())
        self.sampling = SamplingSpec.of_model(stream.manifest.sampling or CHAT_SAMPLING)
        self.writer = TurnWriter(stream.manifest, stream.tokenizer) if stream.manifest.turns else None
        self.dialect = _dialect(stream)
        self.grammars = Grammars(stream.manifest, stream.tokenizer)
        limits = settings.limits
        saved = SavedConversations(settings.folder, limits.saved_bytes) if settings.folder else None
        self.memories = None
        if settings.memory and settings.folder is not None:
            self.memories = Memories(settings.folder, limits.memory_bytes)
        self.conversations = Conversations(stream, limits.streams, saved, self.memories)
        self.scheduler = Scheduler(limits.waiting)
        self.metrics = Metrics()
        self.metrics.watch("running_requests", "Requests that are answered now.", lambda: self.scheduler.running)
        self.metrics.watch("waiting_requests", "Requests that wait for their turn.", lambda: self.scheduler.waiting)
        self.metrics.watch("conversations", "Conversations in memory.", lambda: len(self.conversations))
        self.metrics.watch("saved_conversations", "Conversations on disk.", lambda: self.conversations.saved)
        self.metrics.watch("state_bytes", "Bytes of one conversation's state.", lambda: self.state_bytes)
        if (memories := self.memories) is not None:
            self.metrics.watch("failed_memories", "Memories that ended or could not be.", lambda: memories.failed)

    def answer(self, prompt: Prompt, wanted: Wanted) -> Answer:
        """An answer that waits for its turn; ApiError if there are too many."""
        seconds = self.settings.limits.request_seconds
        return Answer(self.scheduler, lambda emit: self._begin(prompt, wanted, emit), seconds, self.metrics)

    def close(self) -> None:
        """Finish what runs or cancel it within the limit, and save the conversations; the second time nothing."""
        self.scheduler.stop(self.settings.limits.stop_seconds)
        self.conversations.close()

    def check_model(self, fields: Fields) -> None:
        """ApiError if the request is for another model than the one that is served; none named is this one."""
        name = fields.text("model")
        if name is not None:
            self.check_name(name)

    def check_name(self, name: str) -> None:
        """ApiError if it is another model's."""
        if name != self.settings.model:
            message = f"There is no model {name[:80]!r} here, only {self.settings.model!r}."
            raise ApiError(message, 404, "model", "model_not_found")

    def require_writer(self) -> TurnWriter:
        """ApiError where the model is not for conversations."""
        if self.writer is None:
            raise ApiError("This model is not for conversations. Use /v1/completions.", 400, "model")
        return self.writer

    def _begin(self, prompt: Prompt, wanted: Wanted, emit: Emit) -> Iterator[None] | None:
        taken = self.conversations.take(prompt.place)
        return None if taken is None else self._steps(*taken, prompt, wanted, emit)

    def _steps(
        self, conversation: Conversation, read: int, prompt: Prompt, wanted: Wanted, emit: Emit
    ) -> Iterator[None]:
        if self.memories is not None and conversation.memory is None and isinstance(prompt, ChatPrompt):
            conversation.memory = self.memories.new(conversation.stream)
        try:
            yield from reply(conversation, read, prompt, wanted, emit)
        except BadOption as error:  # all else that may go wrong is not the client's fault
            raise refused(error) from None
        finally:
            before = conversation.before
            if before is not None and prompt.is_head(before.key):
                self.conversations.keep_head(before)
            self.conversations.give_back(conversation)


def _dialect(stream: Stream) -> Dialect:
    try:
        return dialect_of((stream.bundle / CHAT_TEMPLATE).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return dialect_of("")
