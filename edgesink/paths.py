"""Where edgesink keeps what it can make again, and what it cannot."""

from __future__ import annotations

import os
from pathlib import Path

from edgesink.errors import BadPlace

ANOTHER_CACHE = "set EDGESINK_CACHE to a folder that may be written"


def cache_folder(kind: str) -> Path:
    """The folder for `kind` ("bundles", "packages") below EDGESINK_CACHE or the user's cache; it may not exist."""
    base = os.environ.get("EDGESINK_CACHE")
    if base:
        return expanded(base) / kind
    return Path(os.environ.get("XDG_CACHE_HOME") or expanded("~/.cache")) / "edgesink" / kind


def state_folder() -> Path:
    """Where edgesink keeps what only this user made, below EDGESINK_STATE or the user's own; it may not exist."""
    base = os.environ.get("EDGESINK_STATE")
    if base:
        return expanded(base)
    return Path(os.environ.get("XDG_STATE_HOME") or expanded("~/.local/state")) / "edgesink"


def expanded(text: str | Path) -> Path:
    """The path with ~ as the home folder; BadPlace if there is none."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise BadPlace(
            f"{text}: no home folder is known", "", "write the whole path; for the cache, set EDGESINK_CACHE"
        ) from None
