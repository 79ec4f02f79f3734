"""What exporter and runtime do alike with a `tokenizer.json`, whatever is in it."""

from __future__ import annotations

from pathlib import Path

import tokenizers

from edgesink.errors import first_line


def open_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of the file; ValueError says in one line why it cannot be read."""
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and for some files a panic, which is not one
        raise ValueError(first_line(error)) from None


def front_of(tokenizer: tokenizers.Tokenizer) -> list[int]:
    """The ids that the tokenizer puts before a text by itself, each once; what it would put behind is left out."""
    text: list[int] = tokenizer.encode("a", add_special_tokens=False).ids
    framed: list[int] = tokenizer.encode("a").ids
    places = range(len(framed) - len(text) + 1)
    front = framed[: next((at for at in places if framed[at : at + len(text)] == text), 0)]
    return list(dict.fromkeys(front))


def well_formed(text: str) -> str:
    """The text with pairs of surrogates joined, and each that stands alone, which UTF-8 cannot hold, as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
