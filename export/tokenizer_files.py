"""Writes a bundle's `tokenizer.json` and `chat_template.jinja` from a checkpoint.

Owns the conversion of a GGUF's tokenizer, which transformers does, and its mending: the conversion keeps no trace of
the pre-tokenizer that the file names.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from edgesink.errors import BadCheckpoint
from edgesink.export.checkpoint import Checkpoint, GgufCheckpoint
from edgesink.manifest import CHAT_TEMPLATE, TOKENIZER


def write_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the tokenizer, and the chat template if the checkpoint has one, into `folder`."""
    if isinstance(checkpoint, GgufCheckpoint):
        _from_gguf(checkpoint).save(str(folder / TOKENIZER))
        template = checkpoint.fields.get("tokenizer.chat_template")
    else:
        source = checkpoint.path / TOKENIZER
        if not source.is_file():
            raise BadCheckpoint(f"no {TOKENIZER} in {checkpoint.path}", "a fast tokenizer", "download it again")
        shutil.copyfile(source, folder / TOKENIZER)
        template = _template_of_folder(checkpoint.path)
    if template:
        (folder / CHAT_TEMPLATE).write_text(template, encoding="utf-8")


def _from_gguf(checkpoint: GgufCheckpoint) -> Any:
    from transformers import AutoTokenizer

    path = checkpoint.path
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).backend_tokenizer
    except (ValueError, KeyError, OSError, NotImplementedError) as error:
        raise BadCheckpoint(
            f"the tokenizer of {path} cannot be read ({error})", "", "use its original folder"
        ) from None
    mend = _PRE_TOKENIZERS.get(checkpoint.fields.get("tokenizer.ggml.pre", ""))
    if checkpoint.fields.get("tokenizer.ggml.model") == "gpt2":
        if mend is None:
            raise BadCheckpoint(
                f"{path} names the pre-tokenizer {checkpoint.fields.get('tokenizer.ggml.pre')!r}",
                f"one of {', '.join(_PRE_TOKENIZERS)}",
                "export the original checkpoint folder",
            )
        tokenizer.pre_tokenizer = mend()
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


def _template_of_folder(path: Path) -> str | None:
    if (path / CHAT_TEMPLATE).is_file():
        return (path / CHAT_TEMPLATE).read_text(encoding="utf-8")
    config = path / "tokenizer_config.json"
    if not config.is_file():
        return None
    template = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    if isinstance(template, list):  # several by name
        template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return template
