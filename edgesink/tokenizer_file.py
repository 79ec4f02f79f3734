"""Opens a `tokenizer.json`, whatever is in it."""

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
