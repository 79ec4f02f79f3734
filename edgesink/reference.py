"""The oracle: StreamingLLM told the slow, obvious way, in PyTorch, one token at a time.

It implements the semantics (Xiao et al. 2023, section 3.2; the window counts the current token) and nothing else:
un-rotated keys and values for each layer, of which the oldest that is no sink is dropped, gathered and
rotated at their in-cache positions for every token. The weights, projections, norms and rotary frequencies are
transformers' own modules. It shares no code with `ring`, the exporter or the runtime: it is what they are held to.
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

    Args:
        source: a checkpoint folder, a `.gguf` file, or a causal model that transformers has loaded already.
        sinks: S, first tokens that are kept for ever.
        window: W, most recent tokens kept, the current one included.
        device: where PyTorch runs: "cpu", "cuda".
        positions: "cache" numbers the visible tokens 0, 1, 2 …; "original" keeps their places in the stream.
        dtype: PyTorch type of the weights and the arithmetic; None keeps a loaded model's, else float32.
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
        self.reset()

    def reset(self) -> None:
        """Start a new stream."""
        self.position = 0
        self._places: list[int] = []  # of the tokens kept, in the stream
        layers = len(self.model.model.layers)
        self._keys: list[torch.Tensor | None] = [None] * layers  # [n, K, D] each, un-rotated
        self._values: list[torch.Tensor | None] = [None] * layers  # [n, K, D] each

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Feed ids one by one; float32 [V], the logits after the last."""
        if not len(ids):
            raise BadOption("no ids", "at least one")
        for token_id in ids:
            logits = self.step(int(token_id))
        return logits

    def step(self, token_id: int) -> np.ndarray:
        """Feed one id; float32 [V], the logits after it."""
        import torch

        with torch.inference_mode():
            logits: np.ndarray = self._forward(token_id).float().cpu().numpy()
            return logits

    def _forward(self, token_id: int) -> torch.Tensor:
        import torch

        decoder = self.model.model
        self._places.append(self.position)
        drop = self.sinks if len(self._places) > self.sinks + self.window else None
        if drop is not None:
            del self._places[drop]
        x = decoder.embed_tokens(torch.tensor([token_id], device=self.model.device))  # [1, hidden]
        for index, layer in enumerate(decoder.layers):
            h = layer.input_layernorm(x)
            context = self._attend(index, layer.self_attn, h, drop)
            x = x + layer.self_attn.o_proj(context)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        self.position += 1
        return self.model.lm_head(decoder.norm(x))[0]  # [V]

    def _attend(self, index: int, attention: Any, h: torch.Tensor, drop: int | None) -> torch.Tensor:
        """Attention of the newest token over the tokens kept, itself included: [1, H * D]."""
        import torch

        D = attention.head_dim
        q = attention.q_proj(h).view(-1, D)  # [H, D]
        keys = self._keys[index] = _kept(self._keys[index], attention.k_proj(h).view(1, -1, D), drop)
        v = self._values[index] = _kept(self._values[index], attention.v_proj(h).view(1, -1, D), drop)
        places = list(range(len(keys))) if self.positions == "cache" else self._places
        k = self._rotate(keys, places)  # [n, K, D]
        q = self._rotate(q[None], places[-1:])[0].view(k.shape[1], -1, D)  # [K, G, D]
        scores = torch.einsum("kgd,nkd->kgn", q, k) * attention.scaling
        wide = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.to(wide).softmax(-1).to(v.dtype)
        return torch.einsum("kgn,nkd->kgd", weights, v).reshape(1, -1)

    def _rotate(self, x: torch.Tensor, places: list[int]) -> torch.Tensor:
        """Rotary embedding of x [n, heads, D] at `places`, halves paired; phases in float64."""
        import torch

        frequencies = self.model.model.rotary_emb.inv_freq.double().to(x.device)  # [D / 2]
        angle = torch.tensor(places, dtype=torch.float64, device=x.device)[:, None] * frequencies
        cos, sin = angle.cos()[:, None].to(x.dtype), angle.sin()[:, None].to(x.dtype)  # [n, 1, D / 2]
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _kept(rows: torch.Tensor | None, new: torch.Tensor, drop: int | None) -> torch.Tensor:
    """Rows [n, K, D] of the tokens kept, without the one at `drop`, and the newest behind them.

    One block a layer. A list of a tensor for each token has been seen to take gigabytes: between small blocks that
    stay, the allocator finds no room for copies of them all that are larger at every step.
    """
    import torch

    if rows is None:
        return new
    return torch.cat([rows, new] if drop is None else [rows[:drop], rows[drop + 1 :], new])


def load_model(source: str | Path, device: str = "cpu", dtype: Any = None) -> Any:
    """The checkpoint as transformers reads it, for inference; BadCheckpoint if it does not."""
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError:
        raise MissingPackage(
            "the reference needs torch and transformers", "", "pip install 'edgesink[export]'"
        ) from None
    path = Path(source)
    if not path.exists():
        raise BadCheckpoint(f"no checkpoint at {path}", "a folder or a .gguf file")
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingPackage("PyTorch finds no GPU here", "an NVIDIA GPU and a CUDA build of torch", "use --device cpu")
    folder, gguf = (path.parent, path.name) if path.suffix == ".gguf" else (path, None)
    bars = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    try:
        with bars:  # transformers draws them wherever it is
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=gguf, dtype=dtype or torch.float32, local_files_only=True
            )
    except (OSError, ValueError, KeyError) as error:
        raise BadCheckpoint(f"transformers cannot read {path} ({error})", "", "download it again") from None
    return model.to(device).eval()
