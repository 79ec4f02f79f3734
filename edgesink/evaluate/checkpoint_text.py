"""Text as ids by a checkpoint's own tokenizer, for commands that have no bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edgesink.evaluate.texts import Text
from edgesink.runtime.tokenizer import Tokenizer


def pieces_of(checkpoint_path: Path, files: Sequence[Path], length: int) -> Iterator[np.ndarray]:
    """The files read once, cut into pieces of `length` ids, int64 [length] each; the rest is not handed out."""
    text = Text(files, _tokenizer_of(checkpoint_path))
    for block in text.blocks(text.count() // length * length, length):
        yield block.ids


def first_ids(checkpoint_path: Path, file: Path, most: int) -> np.ndarray:
    """The beginning of a file, at most `most` ids: int64 [n]. BadOption if there is none."""
    text = Text([file], _tokenizer_of(checkpoint_path))
    tokens = min(most, text.count())
    return np.concatenate([block.ids for block in text.blocks(tokens, tokens)])


def _tokenizer_of(checkpoint_path: Path) -> Tokenizer:
    from edgesink.export.checkpoint import open_checkpoint
    from edgesink.export.tokenizer_files import write_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(open_checkpoint(checkpoint_path), Path(folder))
        return Tokenizer.of_bundle(Path(folder))
