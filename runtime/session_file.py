"""A stream on disk: its position, its sinks and its state, in a safetensors file.

Owns the file format. The header carries the fingerprint of the bundle's model files, and a file of another bundle is
refused: its keys and values would mean nothing. Buffers are cut to the rows that were ever written, and held in the
bundle's type of state whatever type they are run in, so that what was saved here can be restored elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from edgesink.errors import BadSession, NoSpace
from edgesink.files import atomic_write
from edgesink.manifest import Manifest, StateDtype

FORMAT = "1"
HEADER = {"edgesink_session", "fingerprint", "position", "sinks"}
FILE_DTYPE: dict[StateDtype, str] = {"float32": "F32", "float16": "F16"}  # as safetensors says it
MOST_POSITION = 2**52
"""Tokens of a stream that is taken up again: a runner's phases count to 2**53 in float64, so half are still to come."""


@dataclass(frozen=True)
class SavedSession:
    """What a session file holds."""

    position: int
    sinks: int
    state: dict[str, np.ndarray]  # whole buffers


def write_session(path: Path, manifest: Manifest, position: int, sinks: int, state: dict[str, np.ndarray]) -> None:
    """Write beside `path` and rename into place; BadPlace or NoSpace if that cannot be, and then nothing is left."""
    dtype, fingerprint = manifest.state_dtype, manifest.fingerprint
    written = {name: np.ascontiguousarray(array[:, :, :position], dtype) for name, array in state.items()}
    header = {
        "edgesink_session": FORMAT, "fingerprint": fingerprint, "position": str(position), "sinks": str(sinks),
    }  # fmt: skip
    with room_for(path), atomic_write(path) as aside:
        save_file(written, aside, header)


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """What safetensors says when it cannot write, as NoSpace."""
    try:
        yield
    except SafetensorError as error:
        raise NoSpace(f"{path} cannot be written ({error})", "", "choose another place or free some disk") from None


def read_session(path: Path, manifest: Manifest, like: dict[str, np.ndarray]) -> SavedSession:
    """Read what `write_session` wrote; `like` gives the names, shapes and types of the state as it is run.

    Raises:
        BadSession: no such file, one of another bundle, or one that no stream can have written.
    """
    if not os.path.isfile(path):
        raise BadSession(f"no session file {path}", "", "save one first")
    try:
        with safe_open(path, framework="numpy") as file:
            position, sinks = _checked_header(path, file.metadata() or {}, manifest)
            if odd := sorted(set(file.keys()) ^ set(like)):
                raise ValueError(f"{odd[0]} is {'missing' if odd[0] in like else 'no state of the bundle'}")
            state = {name: _whole(file, name, position, manifest.state_dtype, array) for name, array in like.items()}
            return SavedSession(position, sinks, state)
    except (SafetensorError, ValueError, OSError) as error:
        raise BadSession(f"{path} is damaged ({error})", "", "restore a copy, or start a new session") from None


def _checked_header(path: Path, header: dict[str, str], manifest: Manifest) -> tuple[int, int]:
    """Position and sinks; BadSession for a file that is none of this bundle's, ValueError for impossible values."""
    if header.get("edgesink_session") != FORMAT:
        raise BadSession(f"{path} is not a session file of this version", f"format {FORMAT}", "start a new session")
    if set(header) != HEADER:
        raise ValueError(f"its header has the fields {', '.join(sorted(header))}, not {', '.join(sorted(HEADER))}")
    if header["fingerprint"] != manifest.fingerprint:
        raise BadSession(f"{path} belongs to another bundle", "", "load the bundle that it was saved with")
    position = _whole_number("position", header["position"], MOST_POSITION)
    return position, _whole_number("sinks", header["sinks"], manifest.stream.max_sinks)


def _whole_number(name: str, text: str, most: int) -> int:
    """`text` as Python and Swift write a number from 0 to `most`."""
    if not re.fullmatch("0|[1-9][0-9]{0,18}", text) or int(text) > most:
        raise ValueError(f"{name} {text[:40]!r} is no whole number from 0 to {most}")
    return int(text)


def _whole(file: Any, name: str, position: int, saved: StateDtype, like: np.ndarray) -> np.ndarray:
    """The saved rows of one state at the front of a buffer like `like`; ValueError if they cannot be that."""
    heads, rows, dim = like.shape[1], min(position, like.shape[2]), like.shape[3]
    found, expected = file.get_slice(name), [1, heads, rows, dim]
    if found.get_dtype() != FILE_DTYPE[saved] or found.get_shape() != expected:
        raise ValueError(f"{name} is {found.get_dtype()}{found.get_shape()}, not {FILE_DTYPE[saved]}{expected}")
    array = file.get_tensor(name)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds numbers that are not finite")
    buffer = np.zeros_like(like)
    buffer[:, :, :rows] = array
    return buffer
