"""The sampling that the makers of known models recommend, for checkpoints whose own files are silent.

A GGUF seldom says how its model wants to be sampled, and SmolLM2's generation_config.json does not either. Owns one
table of what the models' pages and generation_config.json files say, and how a model's name is compared with it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from edgesink.sampling_defaults import SamplingDefaults

SOURCE = "edgesink's table of known models"


class Known(NamedTuple):
    """One line of the table: the first whose pattern a name begins with counts."""

    pattern: str  # of the name in lower case, its words joined by "-"
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float = 1.0


KNOWN = (
    Known(r"smollm2-", 0.2, 0, 0.9),  # the example of its page
    Known(r"smollm3-", 0.6, 0, 0.95),
    Known(r"qwen2\.5-(coder-)?(0\.5|1\.5)b-instruct", 0.7, 20, 0.8, 1.1),
    Known(r"qwen2\.5-(3|7|14|32|72)b-instruct", 0.7, 20, 0.8, 1.05),
    Known(r"qwen3-(0\.6|1\.7|4|8|14|32)b(?!-(base|instruct|thinking))", 0.6, 20, 0.95),
    Known(r"gemma-?3-", 1.0, 64, 0.95),
    Known(r"(meta-)?llama-3\.[123]-.*instruct", 0.6, 0, 0.9),
    Known(r"tinyllama-1\.1b-chat", 0.7, 50, 0.95),  # the example of its page
)


def known_sampling(name: str) -> SamplingDefaults | None:
    """What the table says of a model of this name; None if it has no line there."""
    name = re.sub(r"[^a-z0-9.]+", "-", name.lower())
    for row in KNOWN:
        if re.match(row.pattern, name):
            return SamplingDefaults(row.temperature, row.top_k, row.top_p, 0.0, row.repetition_penalty, source=SOURCE)
    return None
