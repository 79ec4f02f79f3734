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


@dataclass(frozen=True)
class YarnScaling:
    """Frequencies stretched by how often they turn (YaRN, Peng et al. 2023, section 3.2)."""

    factor: float
    original_context: int  # tokens
    beta_fast: float = 32.0  # turns within the original context; pairs of more are kept
    beta_slow: float = 1.0  # pairs of fewer are stretched by the whole factor
    truncate: bool = True  # both borders at whole pairs


def plain(theta: float, dimensions: int) -> np.ndarray:
    """float64 [dimensions / 2], theta ** (-2 i / dimensions); not yet rounded."""
    return theta ** (-np.arange(0, dimensions, 2, dtype=np.float64) / dimensions)


def llama3(frequency: np.ndarray, scaling: Llama3Scaling) -> np.ndarray:
    """Long wavelengths divided by `factor`, short ones kept, those between blended."""
    turns = scaling.original_context * frequency / (2 * math.pi)  # full turns within the original context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return keep * frequency + (1.0 - keep) * frequency / scaling.factor


def yarn(theta: float, dimensions: int, scaling: YarnScaling) -> np.ndarray:
    """Pairs from that of `beta_fast` turns to that of `beta_slow` go over from kept to divided by `factor`."""
    first, last = (_pair_of(turns, theta, dimensions, scaling) for turns in (scaling.beta_fast, scaling.beta_slow))
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dimensions - 1)
    stretch = np.clip((np.arange(dimensions // 2) - first) / ((last - first) or 0.001), 0.0, 1.0)
    frequency = plain(theta, dimensions)
    return stretch * frequency / scaling.factor + (1.0 - stretch) * frequency


def yarn_amplitude(factor: float, mscale: float = 1.0) -> float:
    """Of cosine and sine, where a config does not say it."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def longrope_amplitude(factor: float, original_context: int) -> float:
    """Of cosine and sine, where a config does not say it (LongRoPE, Ding et al. 2024)."""
    return math.sqrt(1 + math.log(factor) / math.log(original_context)) if factor > 1 else 1.0


def held(frequency: np.ndarray, pairs: int) -> tuple[float, ...]:
    """As float32 holds them, filled up with pairs that never turn."""
    rounded = frequency.astype(np.float32).astype(np.float64)
    return (*rounded.tolist(), *[0.0] * (pairs - len(rounded)))


def _pair_of(turns: float, theta: float, dimensions: int, scaling: YarnScaling) -> float:
    """Which pair turns so often within the original context: a place between pairs."""
    return dimensions * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))
