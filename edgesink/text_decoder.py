"""Tokens to text, one token at a time: the `decoder` of tokenizer.json as a chain of steps.

The `tokenizers` library decodes whole lists, and what a token means may hang on all those before it. A step here takes
one piece of text after the other and remembers a few characters at most, so a token costs the same time and memory
wherever it stands. The pieces joined are the library's text of the whole list, with one exception: where a run of
tokens `<0xNN>` is not UTF-8, the library replaces the whole run, and here the characters that are complete stay.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from tokenizers import Regex, decoders

from edgesink.errors import BadBundle

REPLACEMENT = "\ufffd"  # for bytes that are no character


class Step(Protocol):
    """Rewrites a list of pieces, given one by one."""

    def push(self, piece: str) -> Iterator[str]:
        """The pieces that became certain with this one."""

    def finish(self) -> Iterator[str]:
        """What was held back, at the end."""


class TextDecoder:
    """The whole chain.

    Args:
        decoder: the value of `decoder` in tokenizer.json; None joins tokens with spaces.
    Raises:
        BadBundle: a kind of decoder that cannot work token by token.
    """

    def __init__(self, decoder: Mapping[str, Any] | None) -> None:
        self._steps = [Joined()] if decoder is None else _steps(decoder)

    def push(self, token: str) -> str:
        """The text that became certain with this token."""
        pieces = [token]
        for step in self._steps:
            pieces = [made for piece in pieces for made in step.push(piece)]
        return "".join(pieces)

    def finish(self) -> str:
        """What was held back, at the end; the decoder is then used up."""
        pieces: list[str] = []
        for step in self._steps:
            pieces = [made for piece in pieces for made in step.push(piece)] + list(step.finish())
        return "".join(pieces)


class EachPiece:
    """A step that looks at one piece at a time."""

    def __init__(self, rewrite: Callable[[str], str]) -> None:
        self._rewrite = rewrite

    def push(self, piece: str) -> Iterator[str]:
        """See `Step`."""
        yield self._rewrite(piece)

    def finish(self) -> Iterator[str]:
        """See `Step`."""
        yield from ()


class FirstDiffers(EachPiece):
    """A step of the library's that treats the first piece differently from the others."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._before: list[str] = []

    def push(self, piece: str) -> Iterator[str]:
        """See `Step`."""
        yield self._inner.decode([*self._before, piece])
        self._before = [""]


class Joined(EachPiece):
    """Where there is no decoder: a space between tokens."""

    def __init__(self) -> None:
        self._before = ""

    def push(self, piece: str) -> Iterator[str]:
        """See `Step`."""
        yield self._before + piece
        self._before = " "


class ByteLevel:
    """GPT-2's alphabet: a token's characters are bytes; those of a character may be spread over tokens."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, piece: str) -> Iterator[str]:
        """See `Step`."""
        yield self._utf8.decode(_alphabet_bytes(piece))

    def finish(self) -> Iterator[str]:
        """See `Step`."""
        yield self._utf8.decode(b"", True)


class ByteFallback:
    """SentencePiece's: a token `<0xNN>` is a byte, any other is text."""

    def __init__(self) -> None:
        self._open = b""  # the beginning of a character

    def push(self, piece: str) -> Iterator[str]:
        """See `Step`."""
        byte = _byte(piece)
        if byte is None:
            yield from self.finish()
            yield piece
        else:
            self._open += byte
            yield from self._characters(final=False)

    def finish(self) -> Iterator[str]:
        """See `Step`."""
        yield from self._characters(final=True)

    def _characters(self, final: bool) -> Iterator[str]:
        while self._open:
            try:
                text = self._open.decode()
            except UnicodeDecodeError as error:
                if error.end == len(self._open) and error.reason == "unexpected end of data" and not final:
                    return
                self._open = self._open[error.end :]
                yield REPLACEMENT * (error.end - error.start)
            else:
                self._open = b""
                yield text


class StrippedText:
    """Takes up to `start` characters from the front of the whole text, and up to `stop` from its end."""

    def __init__(self, content: str, start: int, stop: int) -> None:
        self._content, self._start, self._stop = content, start, stop
        self._held = ""

    def push(self, piece: str) -> Iterator[str]:
        """See `Step`."""
        cut = _count(piece, self._content, self._start)
        self._start = self._start - cut if cut == len(piece) else 0
        text = self._held + piece[cut:]
        kept = len(text) - _count(text[::-1], self._content, self._stop)
        self._held = text[kept:]
        yield text[:kept]

    def finish(self) -> Iterator[str]:
        """See `Step`."""
        yield from ()


class WordEnds:
    """BPE of words: a suffix stands for the space after a word, but not after the last token."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._held: str | None = None

    def push(self, piece: str) -> Iterator[str]:
        """See `Step`."""
        if self._held is not None:
            yield self._held.replace(self._suffix, " ")
        self._held = piece

    def finish(self) -> Iterator[str]:
        """See `Step`."""
        yield (self._held or "").replace(self._suffix, "")


def _steps(decoder: Mapping[str, Any], whole: bool = False) -> list[Step]:
    """The steps of a decoder; `whole`: those before have joined the tokens to one text."""
    kind = decoder["type"]
    if kind == "Sequence":
        return _sequence(decoder["decoders"])
    if kind == "ByteLevel":
        return [ByteLevel()]
    if kind == "ByteFallback":
        return [ByteFallback()]
    if kind == "Fuse":
        return []
    if kind == "Strip":
        content, start, stop = decoder["content"], decoder["start"], decoder["stop"]
        return [StrippedText(content, start, stop) if whole else EachPiece(_stripped(content, start, stop))]
    if kind == "Replace" and not (whole and len(decoder["pattern"].get("String", "regular expression")) > 1):
        return [EachPiece(_replaced(decoder["pattern"], decoder["content"]))]
    if kind == "Metaspace" and not whole:
        mark, scheme = decoder["replacement"], decoder.get("prepend_scheme", "always")
        return [FirstDiffers(decoders.Metaspace(mark, scheme))]
    if kind == "WordPiece" and not whole:
        return [FirstDiffers(decoders.WordPiece(decoder["prefix"], decoder["cleanup"]))]
    if kind == "BPEDecoder" and not whole:
        return [WordEnds(decoder["suffix"])]
    raise BadBundle(
        f"tokenizer.json has a decoder {kind} {'of the whole text' if whole else ''}".rstrip(),
        "one that works token by token",
        "take another form of the model's tokenizer",
    )


def _sequence(parts: Sequence[Mapping[str, Any]]) -> list[Step]:
    steps: list[Step] = []
    whole = False
    for part in parts:
        steps += _steps(part, whole)
        whole |= part["type"] in ("Fuse", "ByteLevel")
    return steps


def _replaced(pattern: Mapping[str, str], content: str) -> Callable[[str], str]:
    if "String" in pattern:
        return lambda piece: piece.replace(pattern["String"], content)
    inner = decoders.Replace(Regex(pattern["Regex"]), content)
    return lambda piece: inner.decode([piece])


def _stripped(content: str, start: int, stop: int) -> Callable[[str], str]:
    def strip(piece: str) -> str:
        piece = piece[_count(piece, content, start) :]
        return piece[: len(piece) - _count(piece[::-1], content, stop)]

    return strip


def _count(text: str, content: str, most: int) -> int:
    """How many characters `content` the text begins with, counting up to `most`."""
    front = text[:most]
    return len(front) - len(front.lstrip(content))


def _byte(piece: str) -> bytes | None:
    """The byte that a token `<0xNN>` stands for."""
    if len(piece) != 6 or not piece.startswith("<0x") or not piece.endswith(">"):
        return None
    try:
        return bytes.fromhex(piece[3:5])
    except ValueError:
        return None


def _alphabet_bytes(piece: str) -> bytes:
    """The bytes that a token of GPT-2's alphabet spells; its own UTF-8 where it has another character."""
    try:
        return bytes(_BYTE_OF[character] for character in piece)
    except KeyError:
        return piece.encode()


def _alphabet() -> dict[str, int]:
    """Printable bytes are their own characters; the others are the characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _alphabet()
