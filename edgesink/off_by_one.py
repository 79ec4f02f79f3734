"""Softmax off by one, told the obvious way: attention that may look at nothing, as a function for transformers' models.

Owns exp(x) / (1 + sum exp(x)), the zero sink of Xiao et al. 2023 (section 3.3): as if a key and a value of zeros stood
in front of the others, seen by every query. transformers knows no such models; a checkpoint says so by
`softmax_off_by_one` in its config.json.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID253  (part of PyTorch models; `reference` imports this module lazily)
from transformers import AttentionInterface, AttentionMaskInterface  # noqa: TID253
from transformers.masking_utils import eager_mask  # noqa: TID253

NAME = "softmax_off_by_one"  # among transformers' attention implementations

Tensor = torch.Tensor


def use_off_by_one(model: Any) -> None:
    """Let every layer of a model of transformers attend so."""
    AttentionInterface.register(NAME, off_by_one_attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    model.set_attn_implementation(NAME)


def off_by_one_attention(
    module: Any,
    query: Tensor,  # [B, H, T, D]
    key: Tensor,  # [B, K, n, D]
    value: Tensor,  # [B, K, n, D]
    attention_mask: Tensor | None,  # [B, 1, T, n], 0 where a key is seen; None: all are
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """The context [B, T, H, D] and the weights [B, H, T, n], which sum to less than 1."""
    groups = module.num_key_value_groups
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scaling  # [B, H, T, n]
    if attention_mask is not None:
        scores = scores + attention_mask
    nothing = torch.zeros_like(scores[..., :1])
    weights = torch.cat([nothing, scores], -1).softmax(-1, dtype=torch.float32)[..., 1:].to(value.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights
