"""The names at the edge of every exported graph, written once for exporters and runners."""

from __future__ import annotations

IDS = "ids"  # [1, T] integer, the new tokens
POSITION = "position"  # integer, tokens fed before this run: [1]; in a bounded frame [views], the frame of each ring
OLDEST = "oldest"  # [1] or [T] integer, where the window of all or each of the new tokens begins at the earliest
SINKS = "sinks"  # [1] integer, sinks of this stream
LOGITS = "logits"  # [rows, V] float32, after each of the last new tokens; one row unless `LOGIT_ROWS` is given
NEXT = "next"  # [rows, 1] integer, argmax of the logits: may be bound to `ids`
LOGIT_ROWS = "logit_rows"  # [1] integer, how many; may be left out, 1 then

LAST = "last_token"  # a node, not a tensor: it keeps the last tokens only; scoring a text cuts it out

HIDDEN = "hidden"  # [1, T, hidden] float16, between the parts of a model that is cut; as an output `updated(HIDDEN)`

LENGTH = "length"  # [1] integer, how many of the ids are real: where a chunk has a fixed length and is padded
DECODE = "decode"  # function of one id
PREFILL = "prefill"  # function of a chunk of ids
PART_KEY = "org.edgesink.part"  # where a package of a model that is cut says which part it is, from 0
MANIFEST_KEY = "org.edgesink.manifest"  # where a Core ML package carries the manifest, its list of files left empty


def rows(ring: int) -> str:
    """How many rows the states of a ring are laid out with, as a symbolic dimension."""
    return "rows" if ring == 0 else f"rows_{ring}"


def kv_cache(ring: int) -> str:
    """Core ML's state of the layers of a ring, float16 [2 L, K, rows, D]: keys of its layer i at 2 i, values behind."""
    return "kv_cache" if ring == 0 else f"kv_cache_{ring}"


def new_kv(ring: int) -> str:
    """Core ML with kv_write "host": rows that the runner writes to `kv_cache(ring)`, float16 [2 L, K, T, D]."""
    return "new_kv" if ring == 0 else f"new_kv_{ring}"


def key(layer: int) -> str:
    """State of the keys of `layer`: [1, K, rows, D], rotated at their position; in a bounded frame, at their row."""
    return f"key_{layer}"


def value(layer: int) -> str:
    """State of the values of `layer`: [1, K, rows, D]."""
    return f"value_{layer}"


def states(layers: int) -> list[str]:
    """Every state of a model of so many layers."""
    return [name(layer) for layer in range(layers) for name in (key, value)]


def updated(state: str) -> str:
    """The output that `state` comes back as, bound to the same memory; no output may bear an input's name."""
    return f"{state}_out"
