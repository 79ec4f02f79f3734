"""Optional packages: asked for by name before they are needed, so that a lack is one clear line."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from edgesink.errors import MissingPackage

EXPORT = ("torch", "transformers", "accelerate", "optimum", "onnx", "gguf", "huggingface_hub")
"""What reading a checkpoint and writing an ONNX bundle take."""

COREAI_REMEDY = "pip install 'edgesink[coreai]'"


def require(packages: Sequence[str], extra: str, purpose: str) -> None:
    """MissingPackage if one of the packages is not installed. Imports none of them."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingPackage(f"{purpose} needs {', '.join(missing)}", "", f"pip install 'edgesink[{extra}]'")
