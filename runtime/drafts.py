"""Several tokens a pass, exactly: what a stream said before is drafted, and one pass says which of it comes true.

Owns when a draft is worth its pass, and the logits that were computed ahead. How a token is chosen stays the sampler's
business: it is given the logits of each position in turn, whether they come from a pass of one token or of many, and a
draft is accepted as far as the tokens that it chooses are the drafted ones. For a draft that is certain this is
speculative sampling (Leviathan et al. 2023): x is drawn with p(x) and accepted if it is the draft, else it is what was
drawn, which then has the distribution of p without the draft. Penalties, seeds and grammars see nothing of it. Our
kernels compute such a pass of up to 16 tokens to the bit as single steps, so that an answer is the very same; on ONNX
Runtime's own operators a pass rounds like any other chunk, and may choose another of two all but equally likely tokens.

Rejected tokens are taken back by `Stream.rewind`, at once: between two tokens the stream stands where it would without
drafts, and a caller that never comes back leaves nothing to be undone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgesink.runtime.pass_costs import SIZES, PassCosts
from edgesink.runtime.past import LONGEST, Guess, Past

GAIN = 1.05  # in tokens a second that a draft must promise
MOST_LOSS = 0.01  # of the time spent, that drafts which did not come true may have cost
GRACE_STEPS = 2.0  # that they may cost from the start
RETRY_TOKENS = 256  # without a draft, after which passes are measured anew
MEMORY = 0.98  # what an observation still counts for after the next
DOUBT = 2.0  # observations that the first opinion counts for
FIRST_OPINION = (0.1, 0.2, 0.35, 0.5, 0.6, 0.6, 0.7, 0.7, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.85)  # by ids matched
KINDS = (0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6, 6, 7)  # numbers of ids matched that are counted together


class DraftedStream(Protocol):
    """What drafting asks of `session.Stream`."""

    past: Past
    changes: int  # counts whatever was fed, taken back, reset or replaced

    @property
    def most_rows(self) -> int:
        """Tokens whose logits a pass gives at most."""

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        """Feed ids; the logits after the last."""

    def feed_all(self, ids: Sequence[int], rows: int) -> np.ndarray:
        """Feed ids; the logits after each of the last `rows`."""

    def rewind(self, tokens: int) -> None:
        """Take back the last tokens."""

    def take_up(self, tokens: int) -> None:
        """Undo `rewind`."""


@dataclass
class Ahead:
    """Tokens whose rows are in the state, and the logits after each of them."""

    changes: int  # of the stream, when they were computed
    ids: list[int]  # drafted, not yet chosen
    rows: np.ndarray  # [len(ids), V]
    seconds: float  # that the pass took
    kept: int = 1  # tokens of the pass that came true


@dataclass
class DraftCounts:
    """What drafting has done so far."""

    tokens: int = 0  # followed
    passes: int = 0  # run for them
    drafted: int = 0
    accepted: int = 0


class Drafter:
    """Feeds the tokens of an answer one by one, some of them before they are chosen.

    Attributes:
        counts: what was drafted and accepted, from the stream's beginning.
    """

    def __init__(self, stream: DraftedStream) -> None:
        self._stream = stream
        self._sizes = [size for size in SIZES if size <= stream.most_rows]
        self._costs, self._odds = PassCosts(), Odds()
        self._guess: Guess | None = None
        self._ahead: Ahead | None = None
        self._balance = self._spent = 0.0  # seconds that drafts saved, and that all runs took
        self._undrafted = 0  # tokens since a draft
        self.counts = DraftCounts()

    def follow(self, token_id: int, always: bool = False) -> np.ndarray:
        """The logits after `token_id`, which goes on from where the stream stands; float32 [V], until the next call.

        always: draft wherever something was said before, whether it pays or not.
        """
        self.counts.tokens += 1
        if self._guess is not None:
            self._odds.note(self._guess.matched, self._guess.ids[0] == token_id)
        ahead = self._ahead
        if ahead is not None and ahead.changes == self._stream.changes and ahead.ids and ahead.ids[0] == token_id:
            return self._take_up(ahead)
        self._settle()
        self._guess = self._stream.past.guess_after(token_id, SIZES[-1])
        return self._run(token_id, self._drafted(always))

    def _take_up(self, ahead: Ahead) -> np.ndarray:
        """The drafted token was chosen, and its logits are there."""
        self._stream.take_up(1)
        logits, ahead.ids, ahead.rows = ahead.rows[0], ahead.ids[1:], ahead.rows[1:]
        ahead.changes, ahead.kept = self._stream.changes, ahead.kept + 1
        self.counts.accepted += 1
        guess = self._guess
        self._guess = guess.rest() if guess is not None and len(guess.ids) > 1 else None
        return logits

    def _run(self, token_id: int, draft: list[int]) -> np.ndarray:
        """Feed the token, and the draft behind it to be taken back at once."""
        start = time.perf_counter()
        if draft:
            rows = self._stream.feed_all([token_id, *draft], len(draft) + 1)
            self._stream.rewind(len(draft))
        else:
            rows = self._stream.feed([token_id])[None]
        seconds = time.perf_counter() - start
        self._costs.add(1 + len(draft), seconds)
        self._spent += seconds
        self.counts.passes += 1
        self.counts.drafted += len(draft)
        self._undrafted = 0 if draft else self._undrafted + 1
        self._ahead = Ahead(self._stream.changes, draft, rows[1:], seconds) if draft else None
        return rows[0]

    def _drafted(self, always: bool) -> list[int]:
        """The ids that are worth a pass now; none where the pass costs more than it gives."""
        if self._guess is None or not self._sizes:
            return []
        if self._undrafted >= RETRY_TOKENS:
            self._costs.forget_passes()
            self._undrafted = 0
        expected = self._odds.expected(self._guess.matched, self._sizes[-1])
        speeds = [expected[size - 1] / self._costs.steps_of(size) for size in self._sizes]
        best = int(np.argmax(speeds))
        worth = speeds[best] >= GAIN and self._costs.step_seconds > 0 and self._may_lose()
        return list(self._guess.ids[: self._sizes[best] - 1]) if worth or always else []

    def _may_lose(self) -> bool:
        """Whether drafts have cost so little for nothing that another may be tried."""
        return -self._balance <= MOST_LOSS * self._spent + GRACE_STEPS * self._costs.step_seconds

    def _settle(self) -> None:
        """Reckon up the pass whose draft has ended."""
        if self._ahead is not None and self._costs.step_seconds:
            self._balance += self._ahead.kept * self._costs.step_seconds - self._ahead.seconds
        self._ahead = None


class Odds:
    """How often the next token is the guessed one, by how many ids matched before it. Guessing costs next to nothing,
    so every token is an observation, drafted or not."""

    def __init__(self) -> None:
        self._right, self._seen = [0.0] * (KINDS[-1] + 1), [0.0] * (KINDS[-1] + 1)

    def note(self, matched: int, is_right: bool) -> None:
        """One guess and what came of it."""
        kind = KINDS[matched - 1]
        self._right[kind] = MEMORY * self._right[kind] + is_right
        self._seen[kind] = MEMORY * self._seen[kind] + 1

    def of(self, matched: int) -> float:
        """That the next token is the guessed one, 0 … 1."""
        kind = KINDS[matched - 1]
        return (self._right[kind] + DOUBT * FIRST_OPINION[matched - 1]) / (self._seen[kind] + DOUBT)

    def expected(self, matched: int, most: int) -> list[float]:
        """Tokens that a pass gives which drafts 0, 1, … most - 1 of them."""
        chance, total, tokens = 1.0, 1.0, [1.0]
        for drafted in range(most - 1):
            chance *= self.of(min(matched + drafted, LONGEST))
            total += chance
            tokens.append(total)
        return tokens
