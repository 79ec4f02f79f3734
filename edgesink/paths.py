"""Where edgesink keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder for `kind` ("bundles", "packages") below EDGESINK_CACHE or the user's cache; it may not exist."""
    base = os.environ.get("EDGESINK_CACHE")
    if base:
        return Path(base).expanduser() / kind
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgesink" / kind
