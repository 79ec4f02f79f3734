"""Accounts for tensors: each of a file is the source of a weight, or refused by name; each weight has its source.

Owns what unknown tensors mean, for messages. Knows no file format and no family.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from edgesink.errors import BadCheckpoint
from edgesink.export.families.weights_of import Shapes, Source

MEANINGS: Mapping[str, str] = {
    "_exps.": "a mixture of experts",
    ".experts.": "a mixture of experts",
    "block_sparse_moe": "a mixture of experts",
    "ffn_gate_inp": "a mixture of experts",
    "qweight": "weights packed by GPTQ or AWQ",
    "qzeros": "weights packed by GPTQ or AWQ",
    "g_idx": "weights packed by GPTQ or AWQ",
    "weight_packed": "weights packed by compressed-tensors",
    "weight_scale": "weights in FP8 or INT8 with scales",
    ".absmax": "weights packed by bitsandbytes",
    ".SCB": "weights packed by bitsandbytes",
    "lora_": "a LoRA adapter that is not merged",
    "q_norm": "norms of queries and keys",
    "k_norm": "norms of queries and keys",
    "sinks": "learned sink logits",
    "rope_freqs": "scaled RoPE frequencies; export the safetensors folder of the model instead",
    "rope_factors": "scaled RoPE frequencies",
    "rotary_emb": "RoPE frequencies other than those of its config",
    "vision": "a model of images",
    "mm_projector": "a model of images",
    "score.": "a classifier's head",
    ".scales": "quantised weights",
    ".biases": "quantised weights",
    "post_": "a second norm after attention or MLP",
    ".bias": "a bias",
}
"""What a tensor means by what its name contains, the first that fits; after a semicolon the way out."""


def account_for(tensors: Shapes, sources: Iterable[Source], derived: Iterable[str], where: str) -> None:
    """Refuse a tensor that is nobody's source, a source that is missing, and a shape that the decoder has not.

    Args:
        tensors: every tensor of the file.
        sources: of every weight.
        derived: tensors that follow from the config and need no reading.
        where: the file, for messages.
    """
    wanted = {source.key: source.shape for source in sources}
    unused = sorted(tensors.keys() - wanted.keys() - set(derived))
    missing = [key for key in wanted if key not in tensors]
    if unused:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        lacks = f", and no tensor {missing[0]!r}" if missing else ""
        meaning, _, remedy = next((text for part, text in MEANINGS.items() if part in unused[0]), "").partition("; ")
        raise BadCheckpoint(
            f"{where} has a tensor {unused[0]!r}{more} that the decoder does not use"
            + (f" ({meaning})" if meaning else "")
            + lacks,
            "only tensors of the decoder",
            remedy or "choose another model",
        )
    if missing:
        more = f" nor {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadCheckpoint(f"{where} has no tensor {missing[0]!r}{more}", f"the {len(wanted)} tensors of its config")
    for key, shape in wanted.items():
        if tensors[key] != shape:
            raise BadCheckpoint(f"tensor {key!r} of {where} has shape {tensors[key]}", f"{shape}, by its config")


def check_finite(values: np.ndarray, key: str, where: str) -> None:
    """BadCheckpoint if a value is infinite or not a number; asks no memory of the tensor's size."""
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise BadCheckpoint(
            f"tensor {key!r} of {where} holds NaN or infinity", "finite numbers", "choose another copy of the model"
        )
