"""Text as ids by a checkpoint's own tokenizer, for commands that have no bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edgesink.evaluate.texts import Text


def pieces_of(checkpoint_path: Path, files: Sequence[Path], length: int) -> Iterator[np.ndarray]:
    """The files read once, cut into pieces of `length` ids, int64 [length] each; the rest is not handed out."""
    from edgesink.export.checkpoint import open_checkpoint
    from edgesink.export.tokenizer_files import write_tokenizer
    from edgesink.runtime.tokenizer import Tokenizer

    checkpoint = open_checkpoint(checkpoint_path)
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(checkpoint, Path(folder))
        tokenizer = Tokenizer.of_bundle(Path(folder))
    text = Text(files, tokenizer)
    for block in text.blocks(text.count() // length * length, length):
        yield block.ids
