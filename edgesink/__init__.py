"""Language models that talk endlessly on the device in your hand, in constant memory.

The runtime is imported when `load`, `Chat`, `Memory` or `Stream` is first asked for, so the shared words
(`edgesink.ring`, `edgesink.spec` …) stay free of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgesink.errors import EdgesinkError
from edgesink.version import __version__

if TYPE_CHECKING:
    from edgesink.memory.memory import Memory
    from edgesink.runtime.chat import Chat
    from edgesink.runtime.session import Stream, load

__all__ = ["Chat", "EdgesinkError", "Memory", "Stream", "__version__", "load"]

_LAZY = {
    "Chat": "edgesink.runtime.chat", "Memory": "edgesink.memory.memory", "Stream": "edgesink.runtime.session",
    "load": "edgesink.runtime.session",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
