"""How large the inputs of every product are while a model reads a text: where rounding a weight does harm.

Owns the measurement that `quantize` weighs its errors with. The decoder is the one of all emitters, run in PyTorch on
the checkpoint's own floats; a weight is read when its product is reached and let go behind it, so memory follows the
largest weight, not the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch  # noqa: TID253  (a decoder is run; what imports this module does so lazily)

from edgesink.callbacks import OnProgress, silent
from edgesink.export.attention import by_view, stream_attention
from edgesink.export.checkpoint import Checkpoint, weight_names
from edgesink.export.graph import decoder
from edgesink.export.rows import AttentionSpec
from edgesink.export.to_torch import TorchBuffers, TorchOps, empty_state
from edgesink.export.weights import Energies
from edgesink.spec import StreamSpec

PIECE = 1024  # tokens that are read at once, or the model's context if that is shorter


def input_energies(checkpoint: Checkpoint, ids: np.ndarray, on_progress: OnProgress = silent) -> Energies:
    """Of every weight that is multiplied, over the text ids [n]; the embedding's where it is the head too.

    The text is read in pieces of equal length, each as if nothing stood before it; the weights are read once a piece.
    BadCheckpoint if a weight is not finite.
    """
    pieces = np.array_split(ids, -(-len(ids) // min(PIECE, checkpoint.model.context)))
    sums: dict[str, np.ndarray] = {}
    for piece in pieces:
        for name, energy in _energies_of_piece(checkpoint, piece, on_progress).items():
            sums[name] = sums.get(name, 0) + energy * len(piece)
    return {name: (total / len(ids)).astype(np.float32) for name, total in sums.items()}


def _energies_of_piece(checkpoint: Checkpoint, ids: np.ndarray, on_progress: OnProgress) -> Energies:
    model, stream = checkpoint.model, StreamSpec(0, 2 * len(ids), 0, len(ids))
    ops = _ObservedOps(_Reading(checkpoint, on_progress))
    state = empty_state(model, stream, torch.float32)
    tokens, start = torch.from_numpy(ids[None].astype(np.int64)), torch.tensor([0])
    with torch.inference_mode():
        views = []
        for view in model.views:
            spec = AttentionSpec.of(model, stream, view)
            buffers = TorchBuffers(state, spec.rows, torch.int64)
            views.append(stream_attention(ops, buffers, spec, tokens, start, start))
        decoder(model, ops, by_view(model, views), tokens)
    return ops.energies


class _Reading(Mapping[str, torch.Tensor]):
    """The checkpoint's weights, each read when it is asked for."""

    def __init__(self, checkpoint: Checkpoint, on_progress: OnProgress) -> None:
        self._checkpoint, self._on_progress = checkpoint, on_progress
        self._names = weight_names(checkpoint.model)

    def __getitem__(self, name: str) -> torch.Tensor:
        self._on_progress(self._names.index(name), len(self._names), name)
        return torch.from_numpy(self._checkpoint.tensor(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _ObservedOps(TorchOps):
    """PyTorch's meaning of the vocabulary; notes what goes into every product. Logits are not worth their time."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__(weights, None, torch.int64)
        self.energies: dict[str, np.ndarray] = {}

    def last(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def head(self, x: torch.Tensor, weight: str) -> torch.Tensor:
        self._note(x, weight)
        return x

    def _product(self, x: torch.Tensor, weight: str, bias: str | None = None) -> torch.Tensor:
        self._note(x, weight)
        return super()._product(x, weight, bias)

    def _note(self, x: torch.Tensor, weight: str) -> None:
        self.energies[weight] = x.flatten(0, -2).square().mean(0).numpy()
