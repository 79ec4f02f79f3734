"""transformers' model with the very weights that a bundle holds: rounded as they were exported, and back to floats.

What separates a bundle from this model is the graph and its arithmetic, not the rounding of the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgesink.spec import ModelSpec
from edgesink.targets import Precision

IN_WHOLE = "model.language_model."  # where a model of images has what a model of text has in "model."


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
    from edgesink.export.checkpoint import open_checkpoint
    from edgesink.export.weights import held_weights
    from edgesink.reference import load_model

    model, checkpoint = load_model(checkpoint_path, device, dtype), open_checkpoint(checkpoint_path)
    _overwrite(model, checkpoint.model, held_weights(checkpoint, precision, vocabulary_bits))
    if checkpoint_path.is_file():
        _look_back_alike(model, checkpoint.model)
    return model


def _overwrite(model: Any, spec: ModelSpec, held: Callable[[str], Any]) -> None:
    """Put the weights into the modules, one at a time, each by its family's source backwards."""
    import torch

    from edgesink.export.checkpoint import weight_names
    from edgesink.export.families import HUB_FAMILIES
    from edgesink.export.weights import as_floats

    parameters = dict(model.named_parameters())
    for name in weight_names(spec):
        source = HUB_FAMILIES[spec.architecture].source(name, spec)
        parameter = parameters.get(source.key, parameters.get(source.key.replace("model.", IN_WHOLE, 1)))
        if name == "head":  # a file may have another name for it than the module has
            parameter = model.get_output_embeddings().weight
        assert parameter is not None, f"transformers has no parameter {source.key}"
        with torch.no_grad():
            tensor = parameter.float().cpu().numpy().copy()
            source.put(as_floats(held(name)), tensor)
            parameter.copy_(torch.from_numpy(tensor))


def _look_back_alike(model: Any, spec: ModelSpec) -> None:
    """What a GGUF says of attention: transformers overlooks some of its fields and tensors, and sizes that imply it."""
    import torch

    for window in {view.window for view in spec.views if view.window is not None}:
        model.config.sliding_window = window
    if spec.logits_cap is not None:
        model.config.final_logit_softcapping = spec.logits_cap
    for module in model.modules():
        for name, value in (("scaling", spec.scale), ("attn_logit_softcapping", spec.score_cap)):
            if hasattr(module, name):
                setattr(module, name, value)
        for buffer in [name for name, _ in module.named_buffers(recurse=False) if name.endswith("inv_freq")]:
            if "original" in buffer:
                continue
            rotaries = [view.rotary for view in spec.views if (view.window is None) == ("sliding" not in buffer)]
            turning = [rotary for rotary in rotaries or [spec.views[0].rotary] if any(rotary.frequencies)]
            if turning:
                frequencies = [frequency for frequency in turning[0].frequencies if frequency]
                setattr(module, buffer, torch.tensor(frequencies, device=model.device))
                setattr(module, buffer.replace("inv_freq", "attention_scaling"), turning[0].amplitude)
