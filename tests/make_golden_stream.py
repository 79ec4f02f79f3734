"""Write the golden tokens of a bundle: a prompt and what the Python runtime goes on with, greedily.

    python tests/make_golden_stream.py BUNDLE OUT.json [TOKENS]

The Swift package repeats them: its tests, its command line and, at load, the demo app.
"""

import json
import sys
from pathlib import Path

import edgesink
from edgesink.runtime.sampling import SamplingSpec, make_sampler
from edgesink.runtime.tokenizer import Tokenizer

PROMPT = "The history of the sea is the history of those who sailed it. In the beginning"
TOKENS = 100


def golden_stream(bundle: Path, tokens: int = TOKENS) -> dict:
    """Ids of the prompt and the greedy ids after it; end ids are fed like any other, so that the stream has no end."""
    stream, sample = edgesink.load(bundle), make_sampler(SamplingSpec())
    prompt = Tokenizer.of_bundle(bundle).encode(PROMPT)
    logits = stream.prefill(prompt)
    expected: list[int] = []
    while len(expected) < tokens:
        expected.append(sample(logits, ()))
        logits = stream.step(expected[-1])
    return {
        "format": 1,
        "fingerprint": stream.manifest.fingerprint,
        "sinks": stream.sinks,
        "prompt": prompt,
        "expected": expected,
    }


if __name__ == "__main__":
    bundle, out, *count = sys.argv[1:]
    Path(out).write_text(json.dumps(golden_stream(Path(bundle), *map(int, count))) + "\n")
