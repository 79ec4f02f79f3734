"""The oracle of one family: Llama's decoder spelled out, what `edgesink.reference` is held to.

It implements the semantics (Xiao et al. 2023, section 3.2; the window counts the current token) and nothing else:
un-rotated keys and values for each layer, of which the oldest that is not a sink is dropped, gathered and
rotated at their in-cache positions for every token. The weights, projections, norms and rotary frequencies are
transformers' own modules. It shares no code with `edgesink`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


class LlamaOracle:
    """A stream through a Llama that transformers has loaded.

    Args:
        model: the causal model.
        sinks: S, first tokens that are kept forever.
        window: W, most recent tokens kept, the current one included.
        positions: "cache" numbers the visible tokens 0, 1, 2 …; "original" keeps their places in the stream.
    """

    def __init__(self, model: Any, sinks: int, window: int, positions: str = "cache") -> None:
        self.model, self.sinks, self.window, self.positions = model, sinks, window, positions
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
        for token_id in ids:
            logits = self.step(int(token_id))
        return logits

    def step(self, token_id: int) -> np.ndarray:
        """Feed one id; float32 [V], the logits after it."""
        with torch.inference_mode():
            logits: np.ndarray = self._forward(token_id).float().cpu().numpy()
            return logits

    def _forward(self, token_id: int) -> torch.Tensor:
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
        D = attention.head_dim
        q = attention.q_proj(h).view(-1, D)  # [H, D]
        keys = self._keys[index] = kept(self._keys[index], attention.k_proj(h).view(1, -1, D), drop)
        v = self._values[index] = kept(self._values[index], attention.v_proj(h).view(1, -1, D), drop)
        places = list(range(len(keys))) if self.positions == "cache" else self._places
        k = self._rotate(keys, places)  # [n, K, D]
        q = self._rotate(q[None], places[-1:])[0].view(k.shape[1], -1, D)  # [K, G, D]
        scores = torch.einsum("kgd,nkd->kgn", q, k) * attention.scaling
        wide = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.to(wide).softmax(-1).to(v.dtype)
        return torch.einsum("kgn,nkd->kgd", weights, v).reshape(1, -1)

    def _rotate(self, x: torch.Tensor, places: list[int]) -> torch.Tensor:
        """Rotary embedding of x [n, heads, D] at `places`, halves paired; phases in float64."""
        frequencies = self.model.model.rotary_emb.inv_freq.double().to(x.device)  # [D / 2]
        angle = torch.tensor(places, dtype=torch.float64, device=x.device)[:, None] * frequencies
        cos, sin = angle.cos()[:, None].to(x.dtype), angle.sin()[:, None].to(x.dtype)  # [n, 1, D / 2]
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def kept(rows: torch.Tensor | None, new: torch.Tensor, drop: int | None) -> torch.Tensor:
    """Rows [n, K, D] of the tokens kept, without the one at `drop`, and the newest behind them.

    One block a layer. A list of a tensor for each token has been seen to take gigabytes: between small blocks that
    stay, the allocator finds no room for copies of them all that are larger at every step.
    """
    if rows is None:
        return new
    return torch.cat([rows, new] if drop is None else [rows[:drop], rows[drop + 1 :], new])
