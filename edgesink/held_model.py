"""transformers' model with the very weights that a bundle holds: rounded as they were exported, and back to floats.

What separates a bundle from this model is the graph and its arithmetic, not the rounding of the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgesink.spec import Precision


def held_model(checkpoint_path: Path, precision: Precision, device: str = "cpu", dtype: Any = None) -> Any:
    """The causal model of transformers, for inference, on `device`.

    Args:
        checkpoint_path: a folder of safetensors or a `.gguf` file.
        precision: of the bundle.
        device: "cpu" or "cuda".
        dtype: PyTorch type of the weights and the arithmetic; None is float32.
    """
    from edgesink.reference import load_model

    model = load_model(checkpoint_path, device, dtype)
    _overwrite(model, checkpoint_path, precision)
    return model


def _overwrite(model: Any, checkpoint_path: Path, precision: Precision) -> None:
    """Put what `held_weights` holds into the modules, one weight at a time."""
    import torch

    from edgesink.export.checkpoint import HF_NAMES, open_checkpoint, weight_names
    from edgesink.export.quantize import Blocks
    from edgesink.export.weights import held_weights

    checkpoint = open_checkpoint(checkpoint_path)
    held = held_weights(checkpoint, precision)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in weight_names(checkpoint.model):
            layer, _, short = name.rpartition(".")
            weight = held(name)
            array = weight.dequantized() if isinstance(weight, Blocks) else weight.astype(np.float32)
            parameter = parameters[f"model.{layer}.{HF_NAMES[short]}" if layer else HF_NAMES[short]]
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))
