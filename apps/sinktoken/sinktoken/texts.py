"""Texts, a small vocabulary made of them, and the samples that a model is trained on.

Owns which tokens a step sees: a sample is drawn by the run's seed and the sample's number alone, so every kind of
model sees the same ones in the same order, and a resumed run goes on with the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.utils.data import Dataset

from edgesink.errors import BadOption
from edgesink.files import atomic_write

SINK_TOKEN = "<sink>"
SINK_ID = 0
NO_LABEL = -100  # transformers' mark of a token that adds nothing to the loss


@dataclass(frozen=True)
class Texts:
    """The study's own copy of its texts."""

    training: tuple[Path, ...]
    held_out: Path

    @classmethod
    def copied(cls, source: Path, held_out: str, out: Path, join_lines: bool = False) -> Texts:
        """The `.txt` files of a folder, copied into `out`; with `join_lines`, every white space becomes one space."""
        files = sorted(source.glob("*.txt"))
        if len(files) < 2 or held_out not in {file.name for file in files}:
            raise BadOption(f"{source} with {len(files)} .txt files", f"{held_out} and one or more others")
        for file in files:
            text = file.read_text(encoding="utf-8")
            goal = out / ("held_out" if file.name == held_out else "training") / file.name
            goal.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(goal) as aside:
                aside.write_text(" ".join(text.split()) if join_lines else text, encoding="utf-8")
        return cls.of(out)

    @classmethod
    def of(cls, out: Path) -> Texts:
        """Those that `copied` left in `out`."""
        (held_out,) = (out / "held_out").glob("*.txt")
        return cls(tuple(sorted((out / "training").glob("*.txt"))), held_out)


def make_tokenizer(texts: Texts, vocabulary: int) -> Tokenizer:
    """Byte-pair encoding over bytes; id 0 is the sink token, which no text encodes to."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[SINK_TOKEN], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train([str(path) for path in texts.training], trainer)
    return tokenizer


def opening_id(tokenizer: Tokenizer, opening: str) -> int | None:
    """The token that `opening` is, None if it is empty; BadOption unless it is exactly one token."""
    ids = tokenizer.encode(opening, add_special_tokens=False).ids
    if len(ids) > 1:
        raise BadOption(f"an opening of {len(ids)} tokens, {opening!r}", "a text that is one token")
    return ids[0] if ids else None


def opened(tokenizer: Tokenizer, opening: int | None) -> Tokenizer:
    """A copy of the tokenizer that puts the opening in front of a text, as others do with a begin-of-sequence token."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    if opening is not None:
        copy.post_processor = processors.TemplateProcessing("opening $A", special_tokens=[("opening", opening)])
    return copy


def encode(tokenizer: Tokenizer, paths: Iterable[Path]) -> np.ndarray:
    """The ids of texts, one behind the other: int64 [n]."""
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return np.concatenate([np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64) for text in texts])


class Samples(Dataset[dict[str, Tensor]]):
    """Pieces of a text at random places, behind the same ids of `front`: the sink token, if the kind has one.

    The loss is over the same tokens in every kind: neither the front nor the first token of a piece is a target.
    """

    def __init__(self, ids: np.ndarray, length: int, count: int, seed: int, front: Sequence[int] = ()) -> None:
        self._ids, self._length, self._count, self._seed = ids, length, count, seed
        self._front = list(front)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        start = np.random.default_rng((self._seed, number)).integers(len(self._ids) - self._length)
        piece = self._ids[start : start + self._length]
        not_targets = [NO_LABEL] * (len(self._front) + 1)
        return {
            "input_ids": torch.from_numpy(np.concatenate([np.array(self._front, np.int64), piece])),
            "labels": torch.from_numpy(np.concatenate([np.array(not_targets), piece[1:]])),
        }
