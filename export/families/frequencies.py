"""Rotary frequencies by kind, as transformers computes them: pure functions of numbers.

Radians a token of each pair of dimensions, rounded to float32 as transformers holds them. Positions within the cache
stay below the length that a model was first trained at, so every scaling here is static.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Llama3Scaling:
    """Frequencies stretched by wavelength, as Llama 3.1 does (transformers `_compute_llama3_parameters`)."""

    factor: float  # > 1
    low_freq_factor: float
    high_freq_factor: float  # > low_freq_factor
    original_context: int  # tokens


def plain(theta: float, dimensions: int) -> np.ndarray:
    """float64 [dimensions / 2], theta ** (-2 i / dimensions); not yet rounded."""
    return theta ** (-np.arange(0, dimensions, 2, dtype=np.float64) / dimensions)


def llama3(frequency: np.ndarray, scaling: Llama3Scaling) -> np.ndarray:
    """Long wavelengths divided by `factor`, short ones kept, those between blended."""
    turns = scaling.original_context * frequency / (2 * math.pi)  # full turns within the original context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return keep * frequency + (1.0 - keep) * frequency / scaling.factor


def held(frequency: np.ndarray, pairs: int) -> tuple[float, ...]:
    """As float32 holds them, filled up with pairs that never turn."""
    rounded = frequency.astype(np.float32).astype(np.float64)
    return (*rounded.tolist(), *[0.0] * (pairs - len(rounded)))
