"""Text to ids and back, whole characters only.

Owns the bundle's `tokenizer.json` (through `tokenizers`) and the incremental detokenizer: a character may be spread
over several tokens, and none is handed out before all its bytes are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tokenizers

from edgesink.errors import BadBundle
from edgesink.manifest import TOKENIZER

REPLACEMENT = "\ufffd"  # what decoders write for bytes that are no character, or not yet
_CONTEXT = 8  # ids kept before the open ones, so that joining rules (spaces, bytes) see their neighbours


class Tokenizer:
    """The tokenizer of a bundle."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner

    @property
    def inner(self) -> tokenizers.Tokenizer:
        """The library's."""
        return self._inner

    @classmethod
    def of_bundle(cls, bundle: Path) -> Tokenizer:
        """Read `tokenizer.json`; BadBundle if it cannot be read."""
        try:
            return cls(tokenizers.Tokenizer.from_file(str(bundle / TOKENIZER)))
        except Exception as error:  # the library raises bare Exception
            raise BadBundle(f"{bundle / TOKENIZER} cannot be read ({error})", "", "export the bundle again") from None

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of `text`; `special` adds what the tokenizer puts around a plain text (a first token)."""
        ids: list[int] = self._inner.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out."""
        text: str = self._inner.decode(list(ids), skip_special_tokens=True)
        return text

    def text_of(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it; None if there is no such id."""
        token: str | None = self._inner.id_to_token(token_id)
        return token


class Detokenizer:
    """Turns ids into text as they come; what it returns never ends in half a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._open = 0  # ids before this one have been handed out

    def push(self, token_id: int) -> str:
        """The text that became certain with this id; empty while a character is incomplete."""
        self._ids.append(token_id)
        return self._certain(final=False)

    def finish(self) -> str:
        """What is left, incomplete bytes as the replacement character."""
        return self._certain(final=True)

    def _certain(self, final: bool) -> str:
        before = self._tokenizer.decode(self._ids[: self._open])
        text = self._tokenizer.decode(self._ids)
        if text.endswith(REPLACEMENT) and not final and len(self._ids) - self._open < _CONTEXT:
            return ""
        new = text[len(before) :]
        self._ids = self._ids[-_CONTEXT:]
        self._open = len(self._ids)
        return new
