"""How many sinks a model needs: the smallest number whose perplexity, far past the window, is near the best.

Owns the measurement and the choice. Models differ: without a sink most fall apart, Gemma 3 270M needs one, and older
Qwen models gain up to a dozen. Every number is tried on the same text in streams of the same capacity.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgesink.errors import BadOption
from edgesink.evaluate.scoring import Scorer
from edgesink.manifest import Manifest, replace_manifest
from edgesink.spec import StreamSpec

CHOICES = (0, 1, 2, 4, 8, 16)
NEAR = 0.005  # of the best perplexity: what is closer is no difference that matters
BLOCK = 1024  # ids scored between two reports


@dataclass(frozen=True)
class Trial:
    """One number of sinks on the text."""

    sinks: int
    tokens: int  # scored, all of them past the first eviction
    perplexity: float


def try_sinks(
    scorer: Scorer, ids: np.ndarray, choices: Sequence[int], on_progress: Callable[[int], None] = lambda done: None
) -> list[Trial]:
    """Score the text once for each number of sinks.

    Args:
        scorer: of the bundle.
        ids: int64 [n], more than the bundle's capacity by some.
        choices: numbers of sinks; those that the bundle cannot hold are left out.
        on_progress: called with the tokens fed so far, of n for each choice.
    Raises:
        BadOption: the text is too short, or no choice is left.
    """
    stream = scorer.manifest.stream
    choices = [sinks for sinks in choices if sinks <= stream.max_sinks]
    if not choices or len(ids) < 2 * stream.capacity:
        raise BadOption(
            f"{len(ids)} tokens of text and {len(choices)} numbers of sinks",
            f"at least {2 * stream.capacity} tokens, twice what the bundle sees, and one number up to "
            f"{stream.max_sinks}",
            "give a longer --text, or a bundle with a smaller window",
        )
    trials, done = [], 0
    for sinks in choices:
        scorer.reset(sinks)
        nats = []
        for start in range(0, len(ids) - 1, BLOCK):
            block = ids[start : start + BLOCK + 1]
            nats.append(scorer.feed(block[:-1], block[1:]))
            done += len(block) - 1
            on_progress(done)
        scored = np.concatenate(nats)[stream.capacity :]
        trials.append(Trial(sinks, len(scored), math.exp(float(np.mean(scored, dtype=np.float64)))))
    return trials


def advised(trials: Sequence[Trial]) -> Trial:
    """The smallest number of sinks within `NEAR` of the best perplexity."""
    best = min(trial.perplexity for trial in trials)
    return min((t for t in trials if t.perplexity <= best * (1 + NEAR)), key=lambda trial: trial.sinks)


def store_sinks(bundle: Path, sinks: int) -> Manifest:
    """Make `sinks` the default of streams of this bundle; what a token sees stays as many tokens."""
    manifest = Manifest.read(bundle)
    stream = dataclasses.replace(manifest.stream, sinks=sinks, window=manifest.stream.capacity - sinks)
    assert isinstance(stream, StreamSpec)
    manifest = dataclasses.replace(manifest, stream=stream)
    replace_manifest(bundle, manifest)
    return manifest
