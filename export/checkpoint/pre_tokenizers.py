"""How a byte-level tokenizer cuts a text before it merges, by the name that a GGUF gives it.

Owns the names of `tokenizer.ggml.pre`, as llama.cpp's conversion script gives them, and the patterns of the original
tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DIGIT = r"\p{N}"
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

GPT2 = "GPT-2"  # its pattern is the library's own


def _llama3(digits: str) -> str:
    """Llama 3 and those after it, which differ in how many digits stay together."""
    return rf"{ENDINGS}|{LETTERS}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"


def _o200k(endings: str, digits: str) -> str:
    """GPT-4o and Tekken, which see where a word in capitals ends."""
    before = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{before}{UPPER}*{LOWER}+{endings}|{before}{UPPER}+{LOWER}*{endings}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"


BY_THREE, ONE_BY_ONE = _llama3(r"\p{N}{1,3}"), _llama3(DIGIT)

PATTERNS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "mellum"), (GPT2,)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), (DIGIT, GPT2)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "dbrx", "smaug-bpe", "chatglm-bpe", "glm4"), (BY_THREE,)),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"), (ONE_BY_ONE,)),
    "tekken": (_o200k("", DIGIT),),
    **dict.fromkeys(("gpt-4o", "llama4"), (_o200k(f"{ENDINGS}?", r"\p{N}{1,3}"),)),
}
"""Name -> what is cut out, one pattern after the other, each piece apart."""


def pre_tokenizer(name: str) -> Any:
    """The `tokenizers.pre_tokenizers.PreTokenizer` of that name."""
    from tokenizers import Regex, pre_tokenizers

    patterns = PATTERNS[name]
    cuts: list[Any] = [
        pre_tokenizers.Digits(individual_digits=True)
        if pattern == DIGIT
        else pre_tokenizers.Split(Regex(pattern), "isolated")
        for pattern in patterns
        if pattern != GPT2
    ]
    return pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=GPT2 in patterns)]
    )
