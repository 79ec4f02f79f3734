"""Turns to ids: a control token only where a turn has one, whatever a message says.

Owns a twin of the tokenizer whose control tokens are spelled in a way that nobody can write. What the library does
around such a token (no merge across it, white space that it takes along, prefixes of what follows) is then done as for
the whole conversation, and the token's own spelling within a message is ordinary text.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence

import tokenizers

from edgesink.errors import BadBundle, BadOption
from edgesink.tokenizer_file import well_formed
from edgesink.turns import Part

_BREAK = -1  # the id of what stands for none
_UNKNOWN = "\U000f1234"  # what a tokenizer makes of it stands for any character that it does not know
_NEIGHBOURS = ("a", "\n", ".")  # stand for an answer's end, to see how the text behind it is encoded


class TurnEncoder:
    """Encodes turns with the tokenizer of a bundle."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, controls: Iterable[int]) -> None:
        """`controls`: ids of the control tokens besides those that are marked special."""
        added = tokenizer.get_added_tokens_decoder()
        self._controls = {id_ for id_, token in added.items() if token.special}.union(controls)
        self._names = {id_: added[id_].content if id_ in added else "" for id_ in self._controls}
        secret = secrets.token_hex(8)
        self._spelled = {id_: f"\ue2f0{secret}{id_:x}\ue2f1" for id_ in self._controls}
        self._break = f"\ue2f0{secret}\ue2f1"  # a token of no id: what stands around it does not join
        twin = tokenizers.Tokenizer(tokenizer.model)
        if tokenizer.normalizer is not None:
            twin.normalizer = tokenizer.normalizer
        if tokenizer.pre_tokenizer is not None:
            twin.pre_tokenizer = tokenizer.pre_tokenizer
        spelled = {id_: self._spelled.get(id_, token.content) for id_, token in sorted(added.items())}
        twin.add_tokens([
            tokenizers.AddedToken(self._break, normalized=False),
            *(
                tokenizers.AddedToken(
                    spelled[id_], lstrip=token.lstrip, rstrip=token.rstrip, normalized=token.normalized,
                    single_word=token.single_word and id_ not in self._controls,
                )
                for id_, token in sorted(added.items())
            ),
        ])  # fmt: skip
        self._id_of = {twin.token_to_id(text): id_ for id_, text in spelled.items()}  # id in the twin -> id
        self._id_of[twin.token_to_id(self._break)] = _BREAK
        self._twin = twin
        self._forbidden = self._controls.difference(self._twin_ids(_UNKNOWN))  # of a message

    def encode(self, parts: Sequence[Part], goes_on: bool = False) -> list[int]:
        """Ids of a turn; `goes_on`: it stands behind an answer, not at the beginning of the text.

        Raises:
            BadOption: the tokenizer makes a control token of a message, however it is written.
            BadBundle: it does not take a control token of the turn for one.
        """
        ids = self._whole(parts, goes_on)
        if ids is None:
            ids = self._whole([part if isinstance(part, int) else self._broken(part) for part in parts], goes_on)
        if ids is None:
            raise BadOption("a control token in a message", "text that this tokenizer does not take for one")
        return ids

    def _whole(self, parts: Sequence[Part], goes_on: bool) -> list[int] | None:
        """None if a message became a control token."""
        text = "".join(self._spelled[part] if isinstance(part, int) else part for part in parts)
        made = self._behind(text) if goes_on and parts and isinstance(parts[0], str) else self._twin_ids(text)
        if any(id_ not in self._id_of and id_ in self._forbidden for id_ in made):
            return None
        ids = [id_ for id_ in (self._id_of.get(id_, id_) for id_ in made) if id_ != _BREAK]
        wanted = [part for part in parts if isinstance(part, int)]
        if [self._id_of[id_] for id_ in made if self._id_of.get(id_) in self._controls] != wanted:
            names = " ".join(self._names[id_] for id_ in wanted)
            raise BadBundle(f"a tokenizer that does not find {names} in a turn", "one that does", "export it again")
        return ids

    def _behind(self, text: str) -> list[int]:
        """Ids of text that goes on behind other text, as the whole would have them."""
        for neighbour in _NEIGHBOURS:
            before, whole = self._twin_ids(neighbour), self._twin_ids(neighbour + text)
            if whole[: len(before)] == before:
                return whole[len(before) :]
        return self._twin_ids(self._break + text)

    def _broken(self, text: str) -> str:
        """The text with a break in every spelling of a control token."""
        for name in self._names.values():
            if len(name) > 1:
                text = text.replace(name, name[0] + self._break + name[1:])
        return text

    def _twin_ids(self, text: str) -> list[int]:
        ids: list[int] = self._twin.encode(well_formed(text), add_special_tokens=False).ids
        return ids
