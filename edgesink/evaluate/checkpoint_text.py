"""Text as ids by a checkpoint's own tokenizer, for commands that have no bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edgesink.evaluate.texts import Text
from edgesink.export.checkpoint import Checkpoint, open_checkpoint
from edgesink.export.tokenizer_files import write_tokenizer
from edgesink.runtime.tokenizer import Tokenizer


def pieces_of(checkpoint_path: Path, files: Sequence[Path], length: int) -> Iterator[np.ndarray]:
    """The files read once, cut into pieces of `length` ids, int64 [length] each; the rest is not handed out.

    What the model reads texts behind, its sink token and its begin-of-sequence token, stands in front of every piece.
    """
    checkpoint = open_checkpoint(checkpoint_path)
    front = _front(checkpoint)
    text, cut = Text(files, _tokenizer_of(checkpoint)), length - len(front)
    for block in text.blocks(text.count() // cut * cut, cut):
        yield np.concatenate([front, block.ids])


def first_ids(checkpoint_path: Path, file: Path, most: int) -> np.ndarray:
    """The beginning of a file, behind what the model reads texts behind: int64 [n], at most `most` of the file's.

    BadOption if there is none.
    """
    checkpoint = open_checkpoint(checkpoint_path)
    text = Text([file], _tokenizer_of(checkpoint))
    tokens = min(most, text.count())
    return np.concatenate([_front(checkpoint), *(block.ids for block in text.blocks(tokens, tokens))])


def _front(checkpoint: Checkpoint) -> np.ndarray:
    """The ids that a bundle of it would put in front: `Manifest.first_ids`."""
    front = (checkpoint.sink_token_id, checkpoint.bos_id)
    return np.array([id_ for id_ in front if id_ is not None], np.int64)


def _tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(checkpoint, Path(folder))
        return Tokenizer.of_bundle(Path(folder))
