"""The share of attention that the first token gets, while a model is trained."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgesink.off_by_one import NAME as OFF_BY_ONE

FIRST_QUERY = 16  # the shares are means over later queries: an early one sees few tokens, and so much of the first


@torch.no_grad()
def first_token_shares(model: PreTrainedModel, ids: Tensor) -> list[list[float]]:
    """The share (0 to 1) of attention on the first token of samples int64 [B, T]: of each layer and head, [L][H]."""
    trained_with, was_training = model.config._attn_implementation, model.training
    model.eval()
    model.set_attn_implementation(OFF_BY_ONE if trained_with == OFF_BY_ONE else "eager")  # others keep their weights
    layers = model(ids, use_cache=False, output_attentions=True).attentions  # [B, H, T, T] each
    model.set_attn_implementation(trained_with)
    model.train(was_training)
    return [layer[:, :, FIRST_QUERY:, 0].float().mean((0, 2)).tolist() for layer in layers]
