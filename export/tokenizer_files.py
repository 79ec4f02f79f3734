"""Writes a bundle's `tokenizer.json` and `chat_template.jinja` from a checkpoint, and cuts the template into turns."""

from __future__ import annotations

from pathlib import Path

from edgesink.export.chat import cut_turns
from edgesink.export.checkpoint import Checkpoint
from edgesink.export.checkpoint.chat_files import DEFAULT
from edgesink.manifest import CHAT_TEMPLATE, TOKENIZER
from edgesink.turns import Turns


def write_tokenizer(checkpoint: Checkpoint, folder: Path) -> Turns | str:
    """Write the tokenizer, and the chat template if the checkpoint has one, into `folder`.

    Returns:
        how a conversation is written, or why this model is not for one.
    """
    checkpoint.write_tokenizer(folder / TOKENIZER)
    templates = checkpoint.templates()
    if not templates:
        return "it has no chat template"
    if DEFAULT not in templates and len(templates) > 1:
        return f"of its chat templates ({', '.join(sorted(templates))}) none is named {DEFAULT!r}"
    template = templates.get(DEFAULT) or next(iter(templates.values()))
    (folder / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
    return cut_turns(template, checkpoint.special_tokens(), folder / TOKENIZER)
