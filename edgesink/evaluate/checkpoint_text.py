"""Text as ids by a checkpoint's own tokenizer, for commands that have no bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edgesink.evaluate.texts import Text


def pieces_of(checkpoint_path: Path, files: Sequence[Path], length: int) -> Iterator[np.ndarray]:
    """The files read once, cut into pieces of `length` ids, int64 [length] each; the rest is not handed out.

    A model's sink token stands in front of every piece."""
    from edgesink.export.checkpoint import open_checkpoint
    from edgesink.export.tokenizer_files import write_tokenizer
    from edgesink.runtime.tokenizer import Tokenizer

    checkpoint = open_checkpoint(checkpoint_path)
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(checkpoint, Path(folder))
        tokenizer = Tokenizer.of_bundle(Path(folder))
    prefix = [] if checkpoint.sink_token_id is None else [checkpoint.sink_token_id]
    text, cut = Text(files, tokenizer), length - len(prefix)
    for block in text.blocks(text.count() // cut * cut, cut):
        yield np.concatenate([np.array(prefix, np.int64), block.ids])
