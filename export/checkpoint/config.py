"""config.json and its neighbours: JSON objects read safely, and fields of transformers that change no logit.

Owns the two lists of what a family need not read. Knows no family.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgesink import strict_json
from edgesink.errors import BadCheckpoint, first_line
from edgesink.export.checkpoint.stand_ins import check_stand_in
from edgesink.export.families.fields import Fields, short

HARMLESS = frozenset({
    # what wrote the file, and how it is to be loaded
    "architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path", "name_or_path",
    "_commit_hash", "model_max_length", "max_sequence_length", "tokenizer_class", "prefix", "torchscript",
    "use_bfloat16", "tf_legacy_loss", "transformers.js_config", "unsloth_version", "unsloth_fixed",
    "is_llama_config", "_attn_implementation", "attn_implementation", "_attn_implementation_autoset",
    "_flash_attn_2_enabled", "use_flash_attn", "gradient_checkpointing", "init_device", "tokenizer_name", "verbose",
    # how it is trained
    "initializer_range", "init_config", "embedding_fraction", "emb_pdrop", "attention_dropout", "hidden_dropout",
    "resid_pdrop", "attn_pdrop", "embd_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob",
    "classifier_dropout", "neftune_noise_alpha",
    # what is returned, in what pieces it is computed, and labels of heads that are not the language model's
    "use_cache", "cache_implementation", "output_attentions", "output_hidden_states", "return_dict", "use_return_dict",
    "return_dict_in_generate", "output_scores", "chunk_size_feed_forward", "pretraining_tp", "is_decoder",
    "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params",
    # ids, which are the tokenizer's, and how tokens are drawn; end ids are read apart
    "bos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "max_length",
    "max_new_tokens", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
    "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "num_return_sequences", "remove_invalid_values",
    "exponential_decay_length_penalty",
})  # fmt: skip
"""Fields of config.json that say nothing of how a logit is computed."""

NEUTRAL: Mapping[str, Any] = {
    "attention_bias": False,
    "mlp_bias": False,
    "qkv_bias": False,
    "use_bias": False,
    "bias": False,
    "lm_head_bias": False,
    "use_qk_norm": False,
    "qk_norm": False,
    "qk_layernorm": False,
    "partial_rotary_factor": 1.0,
    "rotary_pct": 1.0,
    "rope_interleaved": False,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "num_experts": 0,
    "num_local_experts": 0,
    "use_parallel_residual": False,
    "apply_residual_connection_post_layernorm": False,
    "is_causal": True,
    "use_bidirectional_attention": False,
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "is_encoder_decoder": False,
    "tie_encoder_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
}
"""Fields that our decoder has not, with the value that switches them off."""

MEANINGS: Mapping[str, str] = {
    "attention_bias": "biases of attention, of its output too",
    "final_logit_softcapping": "a soft cap on the logits",
    "attn_logit_softcapping": "a soft cap on the scores",
    "use_bidirectional_attention": "tokens that see those after them",
    "mlp_bias": "biases of the MLP",
    "qk_layernorm": "norms of queries and keys, one for each head",
    "num_experts": "a mixture of experts",
    "num_local_experts": "a mixture of experts",
    "auto_map": "code of its own computes it",
    "vision_config": "a model of images",
    "sliding_window": "a window that transformers' own model ignores",
    "quantization": "weights quantised by MLX; take the model that they were made from",
    "compression_config": "weights packed by compressed-tensors; take the model that they were made from",
}
"""What a refused field means; after a semicolon the way out."""


METHODS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "bitsandbytes": "bitsandbytes",
    "MLX": "MLX",
}
"""`quant_method` -> as people call it, where that is another word."""


def check_quantization(config: Fields) -> None:
    """Refuse weights that another tool has quantised, by the name of its method."""
    if config.says("quantization_config"):
        section = config.section("quantization_config")
        unnamed = "MLX" if {"group_size", "bits"} <= section.keys() else "an unknown method"
        method = section.get("quant_method", unnamed)
        raise BadCheckpoint(
            f"{config.where} has quantization_config: weights quantised by {METHODS.get(str(method), short(method))}",
            "weights in float32, float16 or bfloat16",
            "take the model that they were made from, or a GGUF",
        )


def transformers_defaults(model_type: str) -> dict[str, Any]:
    """What transformers takes where config.json is silent."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    known = {field.name: field.default for field in dataclasses.fields(kind)}
    theta = kind.default_theta  # one, or one of layers that see all and one of layers with a window
    if isinstance(theta, dict):
        known |= {"rope_theta": theta["global"], "rope_local_base_freq": theta["local"]}
    else:
        known |= {"rope_theta": theta}
    return {name: value for name, value in known.items() if value is not dataclasses.MISSING}


def end_ids(where: str, value: Any, vocab: int) -> set[int]:
    """The ids of an `eos_token_id`: one, several or none."""
    ids = value if isinstance(value, Sequence) and not isinstance(value, str) else [] if value is None else [value]
    for id_ in ids:
        if type(id_) is not int or not 0 <= id_ < vocab:
            raise BadCheckpoint(
                f"{where} = {short(value)}", f"ids from 0 to {vocab - 1}, the vocabulary's", "correct it there"
            )
    return set(ids)


def sink_token(config: Fields, vocab: int) -> int | None:
    """The id of `sink_token_id`: a token that the model was trained with in front of every sample."""
    value = config.get("sink_token_id")
    if value is not None and (type(value) is not int or not 0 <= value < vocab):
        raise config.error("sink_token_id", f"an id from 0 to {vocab - 1}, the vocabulary's", "", "correct it there")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object."""
    try:
        check_stand_in(path)
        data = strict_json.parse(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{path} cannot be read ({first_line(error)})", "a JSON object") from None
    if not isinstance(data, dict):
        raise BadCheckpoint(f"{path} holds {short(data)}", "a JSON object")
    return data
