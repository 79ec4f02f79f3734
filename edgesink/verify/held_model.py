"""transformers' model with the very weights that a bundle holds: rounded as they were exported, and back to floats.

What separates a bundle from this model is the graph and its arithmetic, not the rounding of the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgesink.targets import Precision


def held_model(
    checkpoint_path: Path, precision: Precision, device: str = "cpu", dtype: Any = None, vocabulary_bits: int = 8
) -> Any:
    """The causal model of transformers, for inference, on `device`.

    Args:
        checkpoint_path: a folder of safetensors or a `.gguf` file.
        precision: of the bundle.
        device: "cpu" or "cuda".
        dtype: PyTorch type of the weights and the arithmetic; None is float32.
        vocabulary_bits: of the bundle's embedding and head, if it is quantised.
    """
    from edgesink.reference import load_model

    model = load_model(checkpoint_path, device, dtype)
    _overwrite(model, checkpoint_path, precision, vocabulary_bits)
    return model


def _overwrite(model: Any, checkpoint_path: Path, precision: Precision, vocabulary_bits: int) -> None:
    """Put what `held_weights` holds into the modules, one weight at a time."""
    import torch

    from edgesink.export.checkpoint import hf_name, open_checkpoint, weight_names
    from edgesink.export.weights import held_weights

    checkpoint = open_checkpoint(checkpoint_path)
    held = held_weights(checkpoint, precision, vocabulary_bits)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in weight_names(checkpoint.model):
            weight = held(name)
            array = weight.astype(np.float32) if isinstance(weight, np.ndarray) else weight.dequantized()
            parameters[hf_name(name)].copy_(torch.from_numpy(np.ascontiguousarray(array)))
