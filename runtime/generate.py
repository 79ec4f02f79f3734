"""The decode loop: a generator of tokens, wrapped and never forked.

Owns when to stop (end ids, stop strings, a number of tokens) and how text leaves (whole characters, nothing that may
yet become a stop string). How the next id is chosen is the sampler's. Knows a stream by what it asks of one,
`TokenStream`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import numpy as np

from edgesink.errors import BadOption
from edgesink.manifest import Manifest
from edgesink.runtime.sampling import Sampler, SamplingSpec, make_sampler
from edgesink.runtime.tokenizer import Detokenizer, Tokenizer
from edgesink.spec import Drafts


class TokenStream(Protocol):
    """What generating asks of `session.Stream`."""

    manifest: Manifest

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's."""

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        """Feed ids; float32 [V], the logits after the last, which the next call may overwrite."""

    def follow(self, token_id: int, drafts: Drafts | None) -> np.ndarray:
        """Feed a token of the answer; the same. The stream may look ahead, and never stands anywhere else for it."""


@dataclass(frozen=True)
class Token:
    """One generated token."""

    id: int
    text: str  # characters that became certain with it; may be empty, or hold those of tokens before


def generate(
    stream: TokenStream,
    ids: Sequence[int],
    sampling: SamplingSpec,
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
    drafts: Drafts | None = None,
    sampler: Sampler | None = None,
) -> Iterator[Token]:
    """Feed `ids`, then yield one token at a time until an end id, a stop string or `max_new_tokens`.

    A token is fed when the next one is asked for, so the last token yielded is not in the stream: neither an end id,
    nor the token at which the caller stopped asking. Feed it first to go on from there. An end id has no text. The
    repetition penalty is for ids of the answer, so that words of the prompt may be said.
    `drafts`: whether the stream may run several tokens a pass; None leaves it as it is set. `sampler` chooses in the
    place of a new one that `sampling` describes, and is asked once for every token; with one, answers can be parts of
    one random sequence.
    """
    if max_new_tokens is not None and max_new_tokens < 0:
        raise BadOption(f"max_new_tokens = {max_new_tokens}", "0 or more")
    sample = sampler or make_sampler(sampling)
    recent: deque[int] = deque(maxlen=max(1, sampling.repetition_window))
    end_ids = frozenset(stream.manifest.eos_ids)
    text = StopFilter(Detokenizer(stream.tokenizer), stop)
    rows = stream.tokenizer.rows(stream.manifest.vocab)
    logits = stream.feed(ids)
    for made in count(1):
        if max_new_tokens == 0:
            return
        token_id = sample(rows.of_logits(logits), list(recent) if sampling.repetition_penalty != 1 else ())
        ends = token_id in end_ids
        last = ends or made == max_new_tokens
        shown = "" if ends else text.push(token_id)
        yield Token(token_id, shown + text.finish() if last else shown)
        if last or text.stopped:
            return
        recent.append(token_id)
        logits = stream.follow(token_id, drafts)


class StopFilter:
    """Holds text back while it may be the beginning of a stop string."""

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str]) -> None:
        if "" in stop:
            raise BadOption("an empty stop string", "one character or more")
        self._detokenizer, self._stop = detokenizer, tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that may be shown after this id."""
        return self._release(self._detokenizer.push(token_id))

    def finish(self) -> str:
        """What is left at the end."""
        if self.stopped:
            return ""
        text = self._release(self._detokenizer.finish()) + self._held
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((n for stop in self._stop for n in range(1, len(stop)) if self._held.endswith(stop[:n])), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown
