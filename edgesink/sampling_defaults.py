"""How a model wants its tokens chosen when nobody says otherwise: a field of the manifest.

Owns the values, their ranges, and how they are said to people. Knows nothing of where they come from
(`export.checkpoint.sampling`) nor of how a token is chosen (`runtime.sampling`).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgesink.errors import BadOption

SAMPLING_FIELDS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""What is recommended, by the names of `SamplingDefaults` and of `runtime.sampling.SamplingSpec`."""


@dataclass(frozen=True)
class SamplingDefaults:
    """The sampling that a model's makers recommend."""

    temperature: float  # 0 always takes the most likely token
    top_k: int  # 0 keeps all
    top_p: float  # above 0, at most 1; 1 keeps all
    min_p: float  # 0 or more, below 1; 0 keeps all
    repetition_penalty: float  # 1 is none
    source: str  # where it is written, for people: "generation_config.json"

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)

    @property
    def words(self) -> str:
        """For people: "temperature 0.7, top-k 20, top-p 0.8, repetition penalty 1.1"."""
        return sampling_words(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)


def check_sampling(temperature: float, top_k: int, top_p: float, min_p: float, repetition_penalty: float) -> None:
    """BadOption names the first value that is out of range."""
    checks = (
        ("temperature", temperature, temperature >= 0, "0 or more"),
        ("top_k", top_k, top_k >= 0, "0 or more"),
        ("top_p", top_p, 0 < top_p <= 1, "above 0, at most 1"),
        ("min_p", min_p, 0 <= min_p < 1, "0 or more, below 1"),
        ("repetition_penalty", repetition_penalty, 1e-6 <= repetition_penalty <= 1e6, "a factor from 1e-6 to 1e6"),
    )
    for name, value, fits, expected in checks:
        if not fits:
            raise BadOption(f"{name} = {value}", expected)


def sampling_words(temperature: float, top_k: int, top_p: float, min_p: float, repetition_penalty: float) -> str:
    """What is switched on, in the order in which it is applied to the most likely tokens."""
    penalty = [f"repetition penalty {repetition_penalty:g}"] if repetition_penalty != 1 else []
    if temperature == 0:
        return ", ".join(["temperature 0 (always the most likely token)", *penalty])
    filters = [
        f"{name} {value:g}"
        for name, value, off in (("top-k", top_k, 0), ("top-p", top_p, 1), ("min-p", min_p, 0))
        if value != off
    ]
    return ", ".join([f"temperature {temperature:g}", *filters, *penalty])


CHAT_SAMPLING = SamplingDefaults(0.7, 0, 0.9, 0.0, 1.0, "edgesink's own, as the model's makers recommend none")
"""How a conversation is sampled with a model that has no recommendation."""
