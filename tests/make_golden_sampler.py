"""Write tests/golden/sampler.json: what the Python sampler draws, for the Swift tests to repeat.

Run by hand when the sampler's definition changes; test_sampling.py checks that the file is current.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edgesink.runtime.sampling import SamplingSpec, SplitMix64, make_sampler

SPECS = [
    SamplingSpec(),
    SamplingSpec(repetition_penalty=1.3, repetition_window=8),
    SamplingSpec(temperature=1.0, seed=1),
    SamplingSpec(temperature=0.7, top_k=5, seed=2),
    SamplingSpec(temperature=1.3, top_p=0.8, seed=3),
    SamplingSpec(temperature=1.0, min_p=0.2, seed=4),
    SamplingSpec(temperature=0.9, top_k=20, top_p=0.9, min_p=0.05, repetition_penalty=1.1, seed=2**63 + 5),
]
VOCAB, STEPS = 64, 40


def logits_of(step: int) -> np.ndarray:
    """Logits that any language can make: integers over 8, with ties."""
    return np.array([((id_ * 37 + step * 11) % 53 - 26) / 8 for id_ in range(VOCAB)], np.float32)


def draws(spec: SamplingSpec) -> list[int]:
    sample, ids = make_sampler(spec), []
    for step in range(STEPS):
        ids.append(sample(logits_of(step), ids))
    return ids


def golden() -> dict:
    generator = SplitMix64(42)
    return {
        "about": "logits of step s: ((id * 37 + s * 11) % 53 - 26) / 8 for id in 0 ..< vocab",
        "vocab": VOCAB,
        "splitmix64_seed_42": [generator.uniform() for _ in range(8)],
        "samplers": [{"spec": asdict(spec), "ids": draws(spec)} for spec in SPECS],
    }


if __name__ == "__main__":
    path = Path(__file__).parent / "golden" / "sampler.json"
    path.write_text(json.dumps(golden(), indent=1) + "\n")
