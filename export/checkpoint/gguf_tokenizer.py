"""A GGUF's tokenizer as tokenizer.json has it.

Owns the conversion, which transformers does, and its mending. The conversion keeps no trace of the pre-tokenizer that
the file names, spells control tokens of other than Latin letters in bytes, and takes for control tokens those alone
whose type says so. What stands before a text is as in llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesink.errors import BadCheckpoint, first_line
from edgesink.export.checkpoint.model_tokenizer import ModelTokenizer, normalised
from edgesink.export.families.fields import short

CONTROL, USER_DEFINED = 3, 4  # gguf.TokenType

TURN_ENDS = frozenset({
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>", "<|end|>",
    "<|return|>", "<|call|>", "<|END_OF_TURN_TOKEN|>", "<end_of_utterance>", "<turn|>", "<EOT>", "_<EOT>", "[EOT]",
    "<｜end▁of▁sentence｜>",
})  # fmt: skip
"""Tokens that end a turn, whatever type a file gives them: nobody writes so."""

TEXT_TAGS = frozenset({"</s>", "<eos>"})
"""Tokens that end a text if they are control tokens; without that they are tags of a page."""

BEGUN = frozenset({"llama-bpe"})
"""Byte-level tokenizers that put the first token before a text, unless the file says otherwise."""

_P = "tokenizer.ggml."


def tokenizer_of_gguf(path: Path, fields: Mapping[str, Any], rows: int) -> ModelTokenizer:
    """The tokenizer of the file with these fields, checked by `GgufCheckpoint`; BadCheckpoint if it has none."""
    from transformers import AutoTokenizer

    try:
        known = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        inner = known.backend_tokenizer
    except Exception as error:  # whatever a damaged vocabulary leads the conversion to
        raise BadCheckpoint(
            f"the tokenizer of {path} cannot be read ({first_line(error)})", "", "export its original folder"
        ) from None
    if fields.get(f"{_P}model") == "gpt2":
        name = fields.get(f"{_P}pre")
        if type(name) is not str or name not in _PRE_TOKENIZERS:
            raise BadCheckpoint(
                f"{path} names the pre-tokenizer {short(name)}",
                f"one of {', '.join(_PRE_TOKENIZERS)}",
                "export the original checkpoint folder",
            )
        inner.pre_tokenizer = _PRE_TOKENIZERS[name]()
        inner.model.ignore_merges = name in WHOLE_WORDS
    tokens = dict(enumerate(fields[f"{_P}tokens"]))
    bos, eos = token_id(fields, "bos"), token_id(fields, "eos")
    front = [bos] if bos is not None and bos in tokens and _adds_bos(fields) else []
    end = None if eos is None else tokens.get(eos)
    return normalised(inner, _added_tokens(fields), front, end, rows, str(path))


def _added_tokens(fields: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Entries of `added_tokens` by id: those that no text is cut into, and of them the special ones."""
    named = {token_id(fields, name) for name in ("bos", "eos", "eot", "eom")}
    found = {}
    for id_, (token, kind) in enumerate(zip(fields[f"{_P}tokens"], kinds_of(fields), strict=True)):
        special = kind == CONTROL or token in TURN_ENDS or id_ in named
        if special or kind == USER_DEFINED:
            entry = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            found[id_] = {"content": token, **entry, "special": special}
    return found


def token_id(fields: Mapping[str, Any], name: str) -> int | None:
    """The id of the token that the file names "bos", "eos" …; SentencePiece has its own where the file says nothing."""
    of_its_own = {"bos": 1, "eos": 2}.get(name) if fields.get(f"{_P}model") == "llama" else None
    id_: int | None = fields.get(f"{_P}{name}_token_id", of_its_own)
    return id_


def kinds_of(fields: Mapping[str, Any]) -> list[int]:
    """The type of every token; in a file without them tokens spelled `<|so|>` are control tokens."""
    tokens = fields.get(f"{_P}tokens") or []
    return fields.get(f"{_P}token_type") or [
        CONTROL if (text.startswith("<|") and text.endswith("|>")) or text in TEXT_TAGS else 1 for text in tokens
    ]


def _adds_bos(fields: Mapping[str, Any]) -> bool:
    by_kind = fields.get(f"{_P}model") == "llama" or fields.get(f"{_P}pre") in BEGUN
    return bool(fields.get(f"{_P}add_bos_token", by_kind))


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

WHOLE_WORDS = frozenset({"llama-bpe"})
"""Those that take a word that is in the vocabulary as it is, whatever the merges."""
