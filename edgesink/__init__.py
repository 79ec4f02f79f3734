"""Language models that talk for ever on the device in your hand, in constant memory."""

from edgesink.errors import EdgesinkError
from edgesink.runtime.session import Stream, load
from edgesink.version import __version__

__all__ = ["EdgesinkError", "Stream", "__version__", "load"]
