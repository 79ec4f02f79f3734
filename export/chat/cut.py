"""The cutting of a chat template into turns.

A conversation of marks is rendered, and cut at them: what stands between two marks is control tokens and ordinary text.
`checks` then holds the turns against renderings of real messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import tokenizers

from edgesink.errors import EdgesinkError
from edgesink.export.chat import checks
from edgesink.export.chat.template import MARK, SYSTEM, NoTurns, Template, conversation, mark
from edgesink.turns import Piece, Script, Trim, Turns

MOST_TURNS = 5  # of a rendering: a later turn must be the same wherever it stands
_LEFT, _RIGHT = "\n \x0b", "\x0b\t\n "  # white space around a message, to see what a template strips

_MARKUP = re.compile("<[|\uff5c].+[|\uff5c]>", re.DOTALL)  # a control token by its looks

_TRIMS: tuple[Trim, ...] = ("none", "left", "right", "both")


def cut(source: str, special: Mapping[str, str], tokenizer: tokenizers.Tokenizer) -> Turns:
    """The turns of a chat template.

    Args:
        source: the template.
        special: texts of the special tokens by the names that templates have for them, "bos_token".
        tokenizer: the model's; its added tokens are what the text is cut at.
    Raises:
        NoTurns: says why there are none.
    """
    template = Template(source, special)
    knife = _Knife(template, tokenizer)
    plain, lack = _script_or_reason(knife, None)
    with_system, refusal = _script_or_reason(knife, SYSTEM)
    if plain is None and with_system is None:
        raise NoTurns(lack)
    try:
        turns = Turns(plain, with_system, lack or refusal, True, _end(knife, plain is None), knife.named(), (), ())
    except EdgesinkError as error:
        raise NoTurns(f"its chat template gives {error.found}") from None
    return checks.checked(turns, template, tokenizer)


def _script_or_reason(knife: _Knife, system: str | None) -> tuple[Script | None, str]:
    try:
        first = knife.cut(1, system)
    except NoTurns as error:
        return None, error.found
    if system and not any(piece.kind == "system" for piece in first):
        return None, "its chat template leaves the system prompt out"
    later = knife.cut(2, system)
    if any(knife.cut(turns, system) != later for turns in range(3, MOST_TURNS + 1)):
        raise NoTurns("its chat template writes no two later turns alike")
    return Script(first, later), ""


def _end(knife: _Knife, needs_system: bool) -> tuple[Piece, ...]:
    messages = conversation(2, SYSTEM if needs_system else None)[:-1]
    try:
        return knife.pieces(_behind_answer(knife.template.render(messages, prompting=False), 1))
    except NoTurns:
        return ()


def _behind_answer(text: str, number: int) -> str:
    _, found, behind = text.rpartition(mark("answer", number))
    if not found:
        raise NoTurns("its chat template drops earlier answers")
    return behind


class _Knife:
    """Cuts renderings of a template at its marks and at the tokenizer's added tokens."""

    def __init__(self, template: Template, tokenizer: tokenizers.Tokenizer) -> None:
        self.template = template
        added = tokenizer.get_added_tokens_decoder()
        literals = "\0".join(template.literals())
        self._named = {
            id_ for id_, token in added.items()
            if not token.special and (_MARKUP.fullmatch(token.content) or _is_named(token.content, literals))
        }  # fmt: skip
        self._ids = {
            token.content: id_
            for id_, token in added.items()
            if token.content and (token.special or id_ in self._named)
        }
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._token = re.compile("|".join(map(re.escape, filter(None, longest_first))) or "(?!)")

    def named(self) -> tuple[int, ...]:
        """Added tokens that are control tokens without being marked special: no message becomes one of them."""
        return tuple(sorted(self._named))

    def cut(self, turns: int, system: str | None) -> tuple[Piece, ...]:
        """The pieces of the last turn of so many, to where its answer starts."""
        plain = self._turn(turns, system, "", "")
        padded = self._turn(turns, system, _LEFT, _RIGHT)
        return self.pieces(plain, _trims(plain, padded))

    def _turn(self, turns: int, system: str | None, left: str, right: str) -> str:
        said = mark("user", turns)
        messages = conversation(turns, system and left + system + right, left + said + right)
        text = self.template.render(messages)
        if turns > 1:
            text = _behind_answer(text, turns - 1)
        if said not in text:
            raise NoTurns("its chat template leaves the user's message out")
        text = text.replace(said, mark("user", 0))
        if re.search("\ue2f0(user|answer)[1-9]", text):
            raise NoTurns("its chat template repeats earlier messages in a later turn")
        return text

    def pieces(self, text: str, trims: list[Trim] | None = None) -> tuple[Piece, ...]:
        """A rendering with marks as pieces; `trims` of its marks in order."""
        pieces: list[Piece] = []
        ends = [*MARK.finditer(text)]
        start = 0
        for number, end in enumerate(ends):
            pieces += self._literal(text[start : end.start()])
            pieces.append(self._said(end, trims[number] if trims else "none"))
            start = end.end()
        return (*pieces, *self._literal(text[start:]))

    def _said(self, found: re.Match[str], trim: Trim) -> Piece:
        if found[1] == "date":
            return Piece("date", self.template.dates[int(found[2])])
        return Piece("user" if found[1] == "user" else "system", trim=trim)

    def _literal(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        start = 0
        for found in self._token.finditer(text):
            if found.start() > start:
                pieces.append(Piece("text", text[start : found.start()]))
            pieces.append(Piece("token", found[0], self._ids[found[0]]))
            start = found.end()
        return [*pieces, Piece("text", text[start:])] if start < len(text) else pieces


def _is_named(token: str, literals: str) -> bool:
    """The template writes or looks for it, and it is neither a word nor white space."""
    return token in literals and bool(token.strip()) and not token.strip("\u2581 ").isalnum()


def _trims(plain: str, padded: str) -> list[Trim]:
    """How the template strips each marked message: from a rendering, and one with white space around the messages."""
    marks = [*MARK.finditer(plain)]
    pattern = ""
    start = 0
    for number, found in enumerate(marks):
        is_said = found[1] != "date"
        pattern += re.escape(plain[start : found.start()])
        left, right = (f"(?P<{side}{number}>{re.escape(pad)})?" for side, pad in (("l", _LEFT), ("r", _RIGHT)))
        pattern += (left if is_said else "") + re.escape(found[0]) + (right if is_said else "")
        start = found.end()
    match = re.fullmatch(pattern + re.escape(plain[start:]), padded)
    if match is None:
        raise NoTurns("its chat template treats white space around a message in a way of its own")
    groups = match.groupdict()
    return [
        _TRIMS[(groups.get(f"l{n}") is None) + 2 * (groups.get(f"r{n}") is None)] if found[1] != "date" else "none"
        for n, found in enumerate(marks)
    ]
