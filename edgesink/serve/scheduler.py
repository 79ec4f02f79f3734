"""Takes turns: many answers on one thread, a step of each after the other.

Owns the thread that runs the model, the queue of jobs that wait, and the end of all. A job is a generator; between two
of its steps any other may run. Knows nothing of models and requests.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edgesink.serve.api_error import ApiError, internal

log = logging.getLogger("edgesink.serve")


class TooLate(Exception):
    """Thrown into a job whose time is up, at one of its steps."""


@dataclass(eq=False)
class Job:
    """Work in steps.

    All its functions are called on the scheduler's thread.
    """

    begin: Callable[[], Iterator[None] | None]  # its steps; None: there is no room for it yet
    fail: Callable[[Exception], None]  # told when it cannot be begun, or a step raises
    deadline: float = float("inf")  # of `time.monotonic`
    cancelled: bool = False
    steps: Iterator[None] | None = field(default=None, init=False)


class Scheduler:
    """Runs jobs on a thread of its own."""

    def __init__(self, most_waiting: int) -> None:
        self._most_waiting = most_waiting
        self._waiting: deque[Job] = deque()
        self._running: deque[Job] = deque()
        self._change = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="edgesink-model", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Jobs that have begun."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Jobs that have not."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Let it take its turn; ApiError if there are too many, or the end is near."""
        with self._change:
            if self._stopping:
                raise stopping()
            if len(self._waiting) >= self._most_waiting and (self._running or self._waiting):
                raise busy()
            self._waiting.append(job)
            self._change.notify()

    def cancel(self, job: Job) -> None:
        """End a job before its next step; its generator is closed on the scheduler's thread."""
        with self._change:
            job.cancelled = True
            self._change.notify()

    def stop(self, seconds: float) -> None:
        """Take no more jobs, let those that run finish for so long, close the others, and end the thread."""
        end = time.monotonic() + seconds
        with self._change:
            self._stopping = True
            for job in (*self._waiting, *self._running):
                job.deadline = min(job.deadline, end)
            self._change.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._wait():
            self._let_in()
            for job in list(self._running):
                if not self._step(job):
                    self._running.remove(job)

    def _wait(self) -> bool:
        """Until there is something to do; False if there never will be."""
        with self._change:
            while not (self._running or self._waiting or self._stopping):
                self._change.wait()
            return bool(self._running or self._waiting or not self._stopping)

    def _let_in(self) -> None:
        """Begin those that wait, in their order, as long as there is room."""
        while self._waiting:
            job = self._waiting[0]
            if not job.cancelled:
                try:
                    if time.monotonic() > job.deadline:
                        raise TooLate
                    job.steps = job.begin()
                except Exception as error:
                    _failed(job, error)
                else:
                    if job.steps is None:
                        return
                    self._running.append(job)
            with self._change:
                self._waiting.popleft()

    def _step(self, job: Job) -> bool:
        """One step; False if it was the last."""
        steps = job.steps
        assert steps is not None
        try:
            if job.cancelled:
                steps.close()  # type: ignore[attr-defined]
                return False
            if time.monotonic() > job.deadline:
                steps.throw(TooLate())  # type: ignore[attr-defined]
                return True
            next(steps)
            return True
        except StopIteration:
            return False
        except Exception as error:
            _failed(job, error)
            return False


def _failed(job: Job, error: Exception) -> None:
    if not isinstance(error, ApiError | TooLate):
        log.error("a request failed", exc_info=error)
    told = error if isinstance(error, ApiError) else late() if isinstance(error, TooLate) else internal()
    try:
        job.fail(told)
    except Exception:  # nothing that a job does ends the thread
        log.exception("a job failed to say so")


def busy() -> ApiError:
    """Of a request for which the queue has no place. (Each has its own: an exception keeps what it came through.)"""
    return ApiError("Too many requests are waiting. Try again in a moment.", 429, code="rate_limit_exceeded")


def stopping() -> ApiError:
    """Of a request that comes at the end."""
    return ApiError("The server is stopping.", 503, code="server_stopping")


def late() -> ApiError:
    """Of a request whose time was up before its answer began."""
    return ApiError("The request took too long.", 503, code="timeout")
