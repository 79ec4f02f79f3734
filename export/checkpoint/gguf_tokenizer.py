"""A GGUF's tokenizer as tokenizer.json has it.

Owns the conversion, which transformers does, and its mending: the conversion keeps no trace of the pre-tokenizer that
the file names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesink.errors import BadCheckpoint, first_line
from edgesink.export.families.fields import short


def tokenizer_of_gguf(path: Path, fields: Mapping[str, Any]) -> Any:
    """The `tokenizers.Tokenizer` of the file with these fields; BadCheckpoint if it cannot be converted."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).backend_tokenizer
    except Exception as error:  # whatever a damaged vocabulary leads the conversion to
        raise BadCheckpoint(
            f"the tokenizer of {path} cannot be read ({first_line(error)})", "", "export its original folder"
        ) from None
    if fields.get("tokenizer.ggml.model") == "gpt2":
        name = fields.get("tokenizer.ggml.pre")
        if type(name) is not str or name not in _PRE_TOKENIZERS:
            raise BadCheckpoint(
                f"{path} names the pre-tokenizer {short(name)}",
                f"one of {', '.join(_PRE_TOKENIZERS)}",
                "export the original checkpoint folder",
            )
        tokenizer.pre_tokenizer = _PRE_TOKENIZERS[name]()
    return tokenizer


def _byte_level(*before: Any) -> Any:
    from tokenizers import pre_tokenizers

    use_regex = not any(isinstance(step, pre_tokenizers.Split) for step in before)
    return pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)])


def _with_digits() -> Any:
    from tokenizers import pre_tokenizers

    return _byte_level(pre_tokenizers.Digits(individual_digits=True))


def _with_regex(digits: str) -> Any:
    """The pattern of Llama 3 and Qwen 2, which differ in how many digits stay together."""
    from tokenizers import Regex, pre_tokenizers

    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return _byte_level(pre_tokenizers.Split(Regex(pattern), "isolated"))


_PRE_TOKENIZERS = {
    "smollm": _with_digits,
    "gpt-2": _byte_level,
    "llama-bpe": lambda: _with_regex(r"\p{N}{1,3}"),
    "qwen2": lambda: _with_regex(r"\p{N}"),
}
"""By the name in `tokenizer.ggml.pre`, as llama.cpp's conversion script gives them."""
