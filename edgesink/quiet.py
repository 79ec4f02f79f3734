"""Libraries that talk when they are imported, kept quiet while they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_coremltools() -> Iterator[None]:
    """Imports of coremltools in the body say nothing: off a Mac it warns that it cannot run models."""
    log = logging.getLogger("coremltools")
    was, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was
