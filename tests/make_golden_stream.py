"""Write the golden tokens of a bundle: a prompt and what the Python runtime goes on with, greedily.

    python tests/make_golden_stream.py BUNDLE OUT.json [TOKENS]

The Swift package repeats them: its tests, its command line and, at load, the demo app.
"""

import json
import sys
from pathlib import Path

import edgesink
from edgesink.manifest import Manifest
from edgesink.runtime.sampling import SamplingSpec, make_sampler
from edgesink.runtime.tokenizer import Tokenizer

PROMPT = "The history of the sea is the history of those who sailed it. In the beginning"
TOKENS = 100


def sampled(bundle: Path, prompt: list[int], tokens: int, **sampling: float) -> list[int]:
    """What the runtime goes on with after the prompt; end ids are fed like any other, so that the stream has no end."""
    spec = SamplingSpec(**sampling)
    stream, sample = edgesink.load(bundle, provider="plain"), make_sampler(spec)
    made: list[int] = []
    logits = stream.prefill(prompt)
    while len(made) < tokens:
        made.append(sample(logits, made[-spec.repetition_window :]))
        logits = stream.step(made[-1])
    return made


def golden_stream(bundle: Path, tokens: int = TOKENS) -> dict:
    """The prompt and the greedy ids after it, as the file holds them."""
    prompt = Tokenizer.of_bundle(bundle).encode(PROMPT)
    return {
        "format": 1,
        "sinks": Manifest.read(bundle).stream.sinks,
        "prompt": prompt,
        "expected": sampled(bundle, prompt, tokens),
    }


if __name__ == "__main__":
    bundle, out, *count = sys.argv[1:]
    Path(out).write_text(json.dumps(golden_stream(Path(bundle), *map(int, count))) + "\n")
