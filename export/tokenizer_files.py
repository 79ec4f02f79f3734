"""Writes a bundle's `tokenizer.json` and `chat_template.jinja` from a checkpoint."""

from __future__ import annotations

from pathlib import Path

from edgesink.export.checkpoint import Checkpoint
from edgesink.manifest import CHAT_TEMPLATE, TOKENIZER


def write_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the tokenizer, and the chat template if the checkpoint has one, into `folder`."""
    checkpoint.write_tokenizer(folder / TOKENIZER)
    template = checkpoint.template()
    if template:
        (folder / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
