"""The oracle: StreamingLLM told the slow, obvious way, in PyTorch, one token at a time.

It implements the semantics (Xiao et al. 2023, section 3.2; the window counts the current token) and nothing else: the
model is transformers' own forward, whichever family it is of, run on the slow ring as its cache. It shares no code
with `ring`, the exporter or the runtime: it is what they are held to.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesink.errors import BadCheckpoint, BadOption, MissingPackage

if TYPE_CHECKING:
    import numpy as np
    import torch


class Reference:
    """A stream through the model as transformers loads it.

    A layer that was trained with a sliding window smaller than sinks + window keeps that window and has no sinks.

    Args:
        source: a checkpoint folder, a `.gguf` file, or a causal model that transformers has loaded already.
        sinks: S, first tokens that are kept forever.
        window: W, most recent tokens kept, the current one included.
        device: where PyTorch runs: "cpu", "cuda".
        positions: "cache" numbers the visible tokens 0, 1, 2 …; "original" keeps their places in the stream.
        dtype: PyTorch type of the weights and the arithmetic; None keeps a loaded model's, else float32.
    Raises:
        BadCheckpoint: transformers cannot read it, or the oracle does not reproduce what transformers computes of a
            few tokens: it is tried on every model.
    """

    def __init__(
        self,
        source: str | Path | Any,
        sinks: int,
        window: int,
        device: str = "cpu",
        positions: str = "cache",
        dtype: Any = None,
    ) -> None:
        if sinks < 0 or window < 1:
            raise BadOption(f"{sinks} sinks and a window of {window}", "0 or more, and 1 or more")
        if positions not in ("cache", "original"):
            raise BadOption(f"positions {positions!r}", "cache or original")
        self.model = load_model(source, device, dtype) if isinstance(source, str | Path) else source
        self.sinks, self.window, self.positions = sinks, window, positions
        from edgesink.rotary_probe import Forward, probe

        self._run = Forward(self.model)
        self._layers = probe(self._run, sinks + window)
        if positions == "original" and not any(self._layers.rotaries):
            raise BadOption("positions 'original' of a model that turns no keys", "cache: there is no other")
        self.reset()

    def reset(self) -> None:
        """Start a new stream."""
        self.position = 0
        self._ring = self._layers.ring(self.sinks, self.window, self.positions == "original")

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Feed ids one by one; float32 [V], the logits after the last."""
        if not len(ids):
            raise BadOption("no ids", "at least one")
        for token_id in ids:
            logits = self.step(int(token_id))
        return logits

    def step(self, token_id: int) -> np.ndarray:
        """Feed one id; float32 [V], the logits after it."""
        logits: np.ndarray = self._forward(token_id).float().cpu().numpy()
        return logits

    def _forward(self, token_id: int) -> torch.Tensor:
        """Logits [V] in the type of the model."""
        from edgesink.rotary_probe import identity

        in_cache = min(self.position, self.sinks + self.window - 1)
        place = in_cache if self.positions == "cache" else self.position
        logits = self._run([token_id], identity, self._ring, place)[0]
        self.position += 1
        return logits


def load_model(source: str | Path, device: str = "cpu", dtype: Any = None) -> Any:
    """The checkpoint as transformers reads it, for inference; BadCheckpoint if it does not."""
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
    except ImportError:
        raise MissingPackage(
            "the reference needs torch and transformers", "", "pip install 'edgesink[export]'"
        ) from None
    path = Path(source)
    if not path.exists():
        raise BadCheckpoint(f"no checkpoint at {path}", "a folder or a .gguf file")
    check_device(device)
    folder, gguf = (path.parent, path.name) if path.suffix == ".gguf" else (path, None)
    bars = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    try:
        with bars:  # transformers draws them wherever it is
            config = AutoConfig.from_pretrained(folder, gguf_file=gguf, local_files_only=True)
            whole = type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING  # a model of images and text: it reads text too
            kind: Any = AutoModelForImageTextToText if whole else AutoModelForCausalLM
            model: Any = kind.from_pretrained(
                folder, gguf_file=gguf, dtype=dtype or torch.float32, local_files_only=True
            )
    except (OSError, ValueError, KeyError) as error:
        raise BadCheckpoint(f"transformers cannot read {path} ({error})", "", "download it again") from None
    if getattr(config, "softmax_off_by_one", False):
        from edgesink.off_by_one import use_off_by_one

        use_off_by_one(model)
    return model.to(device).eval()


def check_device(device: str) -> None:
    """MissingPackage if PyTorch has no such device here."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise MissingPackage("PyTorch finds no GPU here", "an NVIDIA GPU and a CUDA build of torch", "use --device cpu")
