"""Text to ids and back.

Owns the bundle's `tokenizer.json` (through the `tokenizers` library) and the one rule for odd text: control characters
are text like any other; a surrogate that stands alone, which UTF-8 cannot hold, becomes U+FFFD.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import tokenizers

from edgesink.errors import BadBundle, BadOption, first_line
from edgesink.manifest import TOKENIZER
from edgesink.runtime.memory import give_back
from edgesink.runtime.sampling import TokenRows
from edgesink.text_decoder import TextDecoder
from edgesink.tokenizer_file import front_of, open_tokenizer, well_formed


class Tokenizer:
    """The tokenizer of a bundle.

    Padding, truncation and tokens behind the text, which an older bundle's file may ask for, are left out.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self._special = {token.content for token in inner.get_added_tokens_decoder().values() if token.special}
        self._rows: dict[int, TokenRows] = {}
        self._decoder = json.loads(inner.decoder.__getstate__()) if inner.decoder else None
        self.text_decoder()

    @property
    def inner(self) -> tokenizers.Tokenizer:
        """The library's."""
        return self._inner

    @classmethod
    def of_bundle(cls, bundle: Path) -> Tokenizer:
        """Read `tokenizer.json`; BadBundle if it cannot be read."""
        try:
            inner = open_tokenizer(bundle / TOKENIZER)
        except ValueError as error:
            raise BadBundle(f"{bundle / TOKENIZER} cannot be read ({error})", "", "export the bundle again") from None
        give_back()  # the parsed file, as much as the tokenizer itself
        return cls(inner)

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of `text`; `special` puts in front what the tokenizer puts before a plain text (a first token)."""
        try:
            ids: list[int] = self._inner.encode(well_formed(text), add_special_tokens=False).ids
        except Exception as error:  # the library raises nothing narrower
            raise BadOption(f"the tokenizer cannot encode this text ({first_line(error)})") from None
        return [*self._front, *ids] if special else ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, special tokens left out: what a `Detokenizer` says of them one by one."""
        detokenizer = Detokenizer(self)
        return "".join([*map(detokenizer.push, ids), detokenizer.finish()])

    def text_of(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it; None if there is no such id."""
        token: str | None = self._inner.id_to_token(token_id)
        return token

    def is_special(self, token: str) -> bool:
        """Whether the token means something to the model only, and has no text."""
        return token in self._special

    def text_decoder(self) -> TextDecoder:
        """A decoder at the beginning of a text."""
        return TextDecoder(self._decoder)

    def rows(self, vocab: int) -> TokenRows:
        """Which of the `vocab` rows of the logits have a token; BadBundle if none has."""
        if vocab not in self._rows:
            self._rows[vocab] = self._count_rows(vocab)
        if not self._rows[vocab].count:
            raise BadBundle(f"{TOKENIZER} has no tokens", "a vocabulary", "export the bundle again")
        return self._rows[vocab]

    def _count_rows(self, vocab: int) -> TokenRows:
        tokens = self._inner.get_vocab_size(with_added_tokens=True)
        if all(self.text_of(id_) is None for id_ in range(tokens, vocab)):
            return TokenRows(min(tokens, vocab))  # so many different ids, and none beyond their number
        return TokenRows.of(id_ for id_ in self._inner.get_vocab(with_added_tokens=True).values() if id_ < vocab)

    @cached_property
    def _front(self) -> list[int]:
        """Ids before a text that is not a chat."""
        return front_of(self._inner)


class Detokenizer:
    """Turns ids into text as they come; what it returns never ends in half a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._decoder = tokenizer, tokenizer.text_decoder()

    def push(self, token_id: int) -> str:
        """The text that became certain with this id; empty while a character is incomplete."""
        token = self._tokenizer.text_of(token_id)
        return "" if token is None or self._tokenizer.is_special(token) else self._decoder.push(token)

    def finish(self) -> str:
        """What is left at the end, incomplete bytes as the replacement character."""
        return self._decoder.finish()
