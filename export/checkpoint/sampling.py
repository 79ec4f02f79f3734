"""The sampling that a checkpoint's own files recommend: `generation_config.json`, or `general.sampling.*` of a GGUF.

Owns what each of their fields means, and which are left out. These are defaults that anyone may overrule, so a field
that edgesink cannot follow refuses no model: it is named in the `source` of what is read, which `edgesink inspect`
shows, unless nothing at all is recommended. A value of a wrong type or out of range is refused. What holds where a file
has no field that edgesink follows is the caller's, who looks into `known_sampling`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgesink.errors import BadCheckpoint, BadOption
from edgesink.export.checkpoint.config import read_object
from edgesink.export.families.fields import short
from edgesink.sampling_defaults import SAMPLING_FIELDS, SamplingDefaults

GENERATION_CONFIG = "generation_config.json"
HUB_TOP_K = 50  # of transformers, where a file says that it samples and names no top_k

HUB_FIELDS = {name: name for name in SAMPLING_FIELDS}
GGUF_FIELDS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
"""The file's spelling -> ours."""

HUB_OTHERS: Mapping[str, Any] = {
    "num_beams": 1, "typical_p": 1.0, "top_h": None, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
    "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None, "force_words_ids": None, "constraints": None, "suppress_tokens": None,
    "begin_suppress_tokens": None, "forced_bos_token_id": None, "forced_eos_token_id": None, "sequence_bias": None,
    "exponential_decay_length_penalty": None, "guidance_scale": None, "penalty_alpha": None, "dola_layers": None,
    "diversity_penalty": 0.0, "watermarking_config": None, "stop_strings": None, "min_new_tokens": 0, "min_length": 0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
"""Other ways to choose a token, with the value that switches them off."""

HUB_HARMLESS = frozenset({
    "_from_model_config", "transformers_version", "bos_token_id", "eos_token_id", "pad_token_id",
    "decoder_start_token_id", "do_sample", "max_length", "max_new_tokens", "max_time", "early_stopping",
    "length_penalty", "num_beam_groups", "num_return_sequences", "use_cache", "cache_implementation", "cache_config",
    "max_cache_len", "renormalize_logits", "remove_invalid_values", "output_attentions", "output_hidden_states",
    "output_scores", "output_logits", "return_dict_in_generate", "return_legacy_cache", "use_mtp", "token_healing",
    "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind",
    "target_lookbehind", "assistant_ensemble_weight", "speculation_type", "compile_config", "disable_compile",
    "continuous_batching_config", "low_memory", "prefill_chunk_size", "generation_kwargs", "trust_remote_code",
    "max_window_size", "chat_format", "user_token_id", "assistant_token_id", "transformers.js_config",
})  # fmt: skip
"""Lengths, ids, what is returned, and how it is computed: nothing of which token is chosen among those there are."""

GGUF_OTHERS: Mapping[str, Any] = {
    "sequence": None, "xtc_probability": 0.0, "xtc_threshold": None, "penalty_last_n": 64, "mirostat": 0,
    "mirostat_tau": None, "mirostat_eta": None,
}  # fmt: skip
_PREFIX = "general.sampling."
_ONLY_WITH = {"xtc_threshold": "xtc_probability", "mirostat_tau": "mirostat", "mirostat_eta": "mirostat"}


def folder_sampling(folder: Path, known: SamplingDefaults | None = None) -> SamplingDefaults | None:
    """What `generation_config.json` recommends, read as transformers reads it; `known` if it says nothing of sampling.

    `do_sample` false is the most likely token always. A file that does not mention `do_sample` and has one of the
    fields that edgesink follows means to sample: so servers read it, though transformers itself would not.
    """
    path = folder / GENERATION_CONFIG
    if not path.is_file():
        return known
    fields = {name: value for name, value in read_object(path).items() if value is not None}
    samples = fields.get("do_sample")
    if samples not in (None, True, False):
        raise BadCheckpoint(f"{path} has do_sample {short(samples)}", "true or false")
    others = _followed_by_nobody(fields, HUB_OTHERS)
    others += [
        f"{name} (unknown)" for name in sorted(fields.keys() - HUB_FIELDS.keys() - HUB_OTHERS.keys() - HUB_HARMLESS)
    ]
    if samples is None and not HUB_FIELDS.keys() & fields.keys():
        return known and replace(known, source=_source(known.source, others))
    found = _numbers(fields, HUB_FIELDS, str(path))
    if samples is False:
        found["temperature"] = 0.0
    elif "top_k" not in found:
        found["top_k"] = HUB_TOP_K
    return _defaults(found, GENERATION_CONFIG, others, str(path))


def gguf_sampling(
    header: Mapping[str, Any], where: str, known: SamplingDefaults | None = None
) -> SamplingDefaults | None:
    """What `general.sampling.*` recommends; `known` if there is no such field that we follow."""
    fields = {name.removeprefix(_PREFIX): value for name, value in header.items() if name.startswith(_PREFIX)}
    found = _numbers(fields, GGUF_FIELDS, where, prefix=_PREFIX)
    others = [
        name
        for name in _followed_by_nobody(fields, GGUF_OTHERS)
        if name.split()[0] not in _ONLY_WITH or fields.get(_ONLY_WITH[name.split()[0]])
    ]
    others += [f"{name} (unknown)" for name in sorted(fields.keys() - GGUF_FIELDS.keys() - GGUF_OTHERS.keys())]
    if not found:
        return known and replace(known, source=_source(known.source, others))
    return _defaults(found, f"{_PREFIX}* of the GGUF", others, where)


def _numbers(
    fields: Mapping[str, Any], spelled: Mapping[str, str], where: str, prefix: str = ""
) -> dict[str, float | int]:
    """Those of the fields that we follow, by our names; a top_k below 0 is off, as in other runtimes."""
    found: dict[str, float | int] = {}
    for name, ours in spelled.items():
        if name not in fields:
            continue
        value = fields[name]
        whole = ours != "top_k" or (type(value) in (int, float) and float(value).is_integer())
        if type(value) not in (int, float) or not whole:
            raise BadCheckpoint(f"{where} has {prefix}{name} {short(value)}", "a number")
        found[ours] = max(0, int(value)) if ours == "top_k" else round(float(value), 6)  # a GGUF holds float32
    return found


def _followed_by_nobody(fields: Mapping[str, Any], neutral: Mapping[str, Any]) -> list[str]:
    """Fields with another value than the one that switches them off: "typical_p 0.9"."""
    return [f"{name} {short(fields[name])}" for name in neutral if name in fields and fields[name] != neutral[name]]


def _defaults(found: Mapping[str, Any], source: str, others: list[str], where: str) -> SamplingDefaults:
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, **found}
    try:
        return SamplingDefaults(**values, source=_source(source, others))
    except BadOption as error:
        raise BadCheckpoint(f"{where} has {error.found}", error.expected) from None


def _source(source: str, others: list[str]) -> str:
    """Where a recommendation is from, and what of it is not followed."""
    return f"{source}, without {', '.join(others)}" if others else source
