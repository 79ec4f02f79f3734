"""Cuts a checkpoint's chat template into turns (`edgesink.turns`), once, when the model is exported.

Owns the rendering by jinja2, the cutting, and the check that what was cut is what the template writes. A template is a
program of its author's: it runs in a process of its own, with little time and memory.
"""

from edgesink.export.chat.bounded import cut_turns

__all__ = ["cut_turns"]
