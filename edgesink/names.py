"""The names of the tensors at the edge of every exported graph, written once for exporters and runners."""

from __future__ import annotations

IDS = "ids"  # [1, T] integer, the new tokens
POSITION = "position"  # [1] integer, tokens fed before this run
SINKS = "sinks"  # [1] integer, sinks of this stream
LOGITS = "logits"  # [1, V] float32, after the last new token
LAST = "last_token"  # the node that keeps the last token only; scoring a text cuts it out
NEXT = "next"  # [1, 1] integer, argmax of the logits: may be bound to `ids`


def key(layer: int) -> str:
    """State of the keys of `layer`: [1, K, rows, D], rotated at their absolute positions."""
    return f"key_{layer}"


def value(layer: int) -> str:
    """State of the values of `layer`: [1, K, rows, D]."""
    return f"value_{layer}"


def updated(state: str) -> str:
    """The output that `state` comes back as, bound to the same memory."""
    return f"{state}_out"
