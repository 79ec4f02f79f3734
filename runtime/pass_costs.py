"""What a pass of several tokens costs beside a step of one, measured as they are run.

Owns the table of times. A size that has not been run yet is taken to cost what it costs on a processor without products
made for it, moved by how the sizes that have been run compare with that.
"""

from __future__ import annotations

from collections import deque
from statistics import median

import numpy as np

SIZES = (2, 3, 4, 6, 8, 12, 16)
"""Tokens of a pass: few sizes, since ONNX Runtime plans its memory for each."""

USUAL = ((1, 2, 4, 8, 16), (1.0, 1.5, 2.6, 3.8, 6.5))  # tokens, and steps that they cost
RECENT_STEPS, RECENT_PASSES = 15, 5


class PassCosts:
    """Seconds of steps, and of passes as multiples of a step."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=RECENT_STEPS)
        self._passes: dict[int, deque[float]] = {}
        self._run_before: set[int] = set()

    @property
    def step_seconds(self) -> float:
        """Of one token; 0 before one was timed."""
        return median(self._steps) if self._steps else 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Note a run. The first of each size also plans its memory, and is left out."""
        if tokens == 1:
            self._steps.append(seconds)
        elif tokens not in self._run_before:
            self._run_before.add(tokens)
        elif self._steps:
            self._passes.setdefault(tokens, deque(maxlen=RECENT_PASSES)).append(seconds / self.step_seconds)

    def forget_passes(self) -> None:
        """Take them to cost the usual again: they may have been measured on a bad day."""
        self._passes.clear()

    def steps_of(self, tokens: int) -> float:
        """What a pass of so many tokens costs, in steps."""
        measured = self._passes.get(tokens)
        if measured:
            return median(measured)
        compared = [median(found) / _usual(size) for size, found in self._passes.items()]
        return _usual(tokens) * (median(compared) if compared else 1.0)


def _usual(tokens: int) -> float:
    return float(np.interp(tokens, *USUAL))
