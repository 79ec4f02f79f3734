"""What a user can get wrong, one class per failure that a user can fix.

Every message says what was found, what was expected and what to do. The command line prints it without a
traceback and exits with 1. Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

LONGEST_QUOTE = 300  # characters of another's message
LONGEST_FOUND = 600  # characters of what was found
AGAIN = "export the model again"  # the remedy for a bundle that is not as it was written


class EdgesinkError(Exception):
    """A failure that the user can fix.

    Args:
        found: what was found, as a clause without a full stop.
        expected: what would have been right; may be empty if it is obvious.
        remedy: what to do now; may be empty.
    """

    def __init__(self, found: str, expected: str = "", remedy: str = "") -> None:
        found = _one_line(found)
        self.found, self.expected, self.remedy = found, expected, remedy
        parts = [found, f"expected {expected}" if expected else "", remedy]
        super().__init__("; ".join(part for part in parts if part))


def _one_line(text: str) -> str:
    """What was found may quote a file, which can hold anything."""
    line = text.replace("\r", " ").replace("\n", " ")
    return line if len(line) <= LONGEST_FOUND else f"{line[:LONGEST_FOUND]} …"


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, to quote in ours; of a very long one the beginning."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= LONGEST_QUOTE else f"{line[:LONGEST_QUOTE]} …"


def reason(error: Exception) -> str:
    """Why, without the place: "Permission denied"."""
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


class BadBundle(EdgesinkError):
    """A bundle folder is missing, truncated, altered or of another format version."""


class BadCheckpoint(EdgesinkError):
    """A model to export cannot be found or read, or has an unsupported architecture."""


class BadOption(EdgesinkError):
    """A value given by the user lies outside what the model or the bundle allows."""


class BadSession(EdgesinkError):
    """A session file is damaged or belongs to another bundle."""


class BadMemory(EdgesinkError):
    """An archive of what was said is damaged, of a later version, or busy."""


class DamagedMemory(BadMemory):
    """An archive's file is damaged: another can be begun once it is set aside."""


class MissingPackage(EdgesinkError):
    """An optional dependency is needed for what was asked."""


class RunFailed(EdgesinkError):
    """A graph stopped in the middle of a run: no memory, or an operator gave up. The stream is where it was."""


class BadNumbers(EdgesinkError):
    """A graph computed what is not a finite number: its weights or its state are damaged, or beyond its precision."""


BROKEN = "start a new stream; if it happens again, check the bundle with `edgesink verify`"
"""What to do about bad numbers."""


class BadPlace(EdgesinkError):
    """A file or a folder cannot be read, made or replaced where the user wants it."""


class NoSpace(EdgesinkError):
    """The disk cannot hold the output."""


class NotFaithful(EdgesinkError):
    """A bundle does not compute what the oracle computes."""
