"""How long work tells whoever waits for it: through functions that the caller gives. Nothing here prints or draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Say = Callable[[str], None]
"""Takes a line for a person."""

OnProgress = Callable[[int, int, str], None]
"""Takes how much is done, of how much in all, and the name of what comes now."""


def silent(*_: object) -> None:
    """A `Say` and an `OnProgress` that do nothing."""


@dataclass(frozen=True)
class Talk:
    """Both, for work that has several steps."""

    say: Say = silent
    on_progress: OnProgress = silent
