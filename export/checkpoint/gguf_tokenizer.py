"""A GGUF's tokenizer as tokenizer.json has it.

Owns the conversion, which transformers does, and its mending: the conversion keeps no trace of the pre-tokenizer that
the file names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesink.errors import BadCheckpoint, first_line
from edgesink.export.checkpoint.pre_tokenizers import PATTERNS, pre_tokenizer
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
        if type(name) is not str or name not in PATTERNS:
            raise BadCheckpoint(
                f"{path} names the pre-tokenizer {short(name)}",
                f"one of {', '.join(PATTERNS)}",
                "export the original checkpoint folder",
            )
        tokenizer.pre_tokenizer = pre_tokenizer(name)
    return tokenizer
