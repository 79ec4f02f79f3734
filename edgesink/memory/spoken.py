"""A stretch of a stream as text: which characters each token has, which word it is part of, and what it counts.

Owns the mapping between tokens and characters. Knows ids and a tokenizer; value rows are read elsewhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgesink.memory.words import COMMON, word_spans
from edgesink.runtime.tokenizer import Detokenizer, Tokenizer


@dataclass(frozen=True)
class Spoken:
    """Tokens and their text."""

    text: str
    ends: tuple[int, ...]  # for every token, the characters up to its end
    ids: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, ids: Sequence[int]) -> Spoken:
        """What the ids say; a character of several tokens counts to the last of them."""
        detokenizer = Detokenizer(tokenizer)
        text, ends = "", []
        for id_ in ids:
            text += detokenizer.push(id_)
            ends.append(len(text))
        return cls(text + detokenizer.finish(), tuple(ends), tuple(ids))

    def words(self) -> list[str]:
        """For every token the word that it is part of, in lower case; "" for one that is in none, or a common one."""
        found = [""] * len(self.ids)
        for start, end, word in word_spans(self.text):
            if word in COMMON:
                continue
            for token in range(bisect_right(self.ends, start), min(bisect_right(self.ends, end - 1) + 1, len(found))):
                found[token] = found[token] or word
        return found

    def token_of(self, character: int) -> int:
        """The token that has a character."""
        return min(bisect_right(self.ends, character), len(self.ends))


def weights_of(words: Sequence[str], rarity: dict[str, float]) -> np.ndarray:
    """What each token counts, float32 [n], summing to 1 if any counts: its word's rarity."""
    found = np.array([rarity.get(word, 0.0) for word in words], np.float32)
    return found / found.sum() if found.sum() > 0 else found
