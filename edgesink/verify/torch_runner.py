"""The exported decoder in PyTorch, on a GPU: what the emitters' vocabulary says, run where ONNX Runtime has no CUDA.

Owns the weights on the device and the decoder's state there. The graph is `export.to_torch`'s, in the formulation of
ONNX; float types below float32 are those of the weights, the state and the arithmetic alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgesink.manifest import Manifest
from edgesink.spec import Device, TorchType
from edgesink.verify.runners import RunnerKind


class TorchRunner:
    """See `runners.Runner`. checkpoint_path: what the bundle was exported from."""

    kind: RunnerKind = "torch"

    def __init__(self, manifest: Manifest, checkpoint_path: Path, device: Device, dtype: TorchType) -> None:
        import torch

        from edgesink.export.checkpoint import open_checkpoint, weight_names
        from edgesink.export.to_torch import RingDecoder, sink_corrected
        from edgesink.export.weights import as_floats, held_weights
        from edgesink.reference import check_device

        check_device(device)
        checkpoint = open_checkpoint(checkpoint_path)
        held = held_weights(checkpoint, manifest.precision, manifest.vocabulary_bits)
        weights = {
            name: torch.from_numpy(as_floats(held(name))).to(device, getattr(torch, dtype))
            for name in weight_names(checkpoint.model)
        }
        self._device = device
        self._decoder = RingDecoder(checkpoint.model, manifest.stream, weights, sink_corrected).to(device).eval()
        where = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        self.name = f"torch {torch.__version__} {where} {dtype}"

    def feed(self, ids: np.ndarray, position: int, sinks: int) -> np.ndarray:
        """See `runners.Runner.feed`."""
        import torch

        with torch.inference_mode():
            logits: Any = self._decoder(*(torch.from_numpy(x).to(self._device) for x in _inputs(ids, position, sinks)))
        array: np.ndarray = logits[0].float().cpu().numpy()
        return array


def _inputs(ids: np.ndarray, position: int, sinks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return ids[None].astype(np.int64), np.array([position]), np.array([sinks])
