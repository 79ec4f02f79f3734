"""A stream on disk: its position, its sinks and its state, in a safetensors file.

Owns the file format. The header carries the fingerprint of the bundle's model files, and a file of another bundle is
refused: its keys and values would mean nothing. Buffers are cut to the rows that were ever written, and held in the
bundle's type of state whatever type they are run in, so that what was saved here can be restored elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from edgesink.errors import BadSession, NoSpace
from edgesink.files import atomic_write
from edgesink.manifest import Manifest, StateDtype

FORMAT = "1"


@dataclass(frozen=True)
class SavedSession:
    """What a session file holds."""

    position: int
    sinks: int
    state: dict[str, np.ndarray]  # whole buffers


def write_session(path: Path, manifest: Manifest, position: int, sinks: int, state: dict[str, np.ndarray]) -> None:
    """Write beside `path` and rename into place; NoSpace if the disk is full, and then nothing is left."""
    dtype, fingerprint = manifest.state_dtype, manifest.fingerprint
    written = {name: np.ascontiguousarray(array[:, :, :position], dtype) for name, array in state.items()}
    header = {
        "edgesink_session": FORMAT, "fingerprint": fingerprint, "position": str(position), "sinks": str(sinks),
    }  # fmt: skip
    try:
        with atomic_write(path) as aside:
            save_file(written, aside, header)
    except (OSError, SafetensorError) as error:
        raise NoSpace(f"{path} cannot be written ({error})", "", "choose another place or free some disk") from None


def read_session(path: Path, manifest: Manifest, like: dict[str, np.ndarray]) -> SavedSession:
    """Read what `write_session` wrote; `like` gives the names, shapes and types of the state as it is run."""
    if not path.is_file():
        raise BadSession(f"no session file {path}", "", "save one first")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("edgesink_session") != FORMAT:
                raise BadSession(
                    f"{path} is no session file of this version", f"format {FORMAT}", "start a new session"
                )
            if header["fingerprint"] != manifest.fingerprint:
                raise BadSession(f"{path} belongs to another bundle", "", "load the bundle that it was saved with")
            state = {name: _whole(file.get_tensor(name), manifest.state_dtype, array) for name, array in like.items()}
            return SavedSession(int(header["position"]), int(header["sinks"]), state)
    except (SafetensorError, KeyError, ValueError) as error:
        raise BadSession(f"{path} is damaged ({error})", "", "restore a copy, or start a new session") from None


def _whole(rows: np.ndarray, saved: StateDtype, like: np.ndarray) -> np.ndarray:
    """The saved rows at the front of a buffer like `like`; ValueError if they cannot be that."""
    buffer = np.zeros_like(like)
    if rows.dtype != saved or rows.shape[2] > like.shape[2]:
        raise ValueError(f"{rows.dtype}{rows.shape} does not fit {saved}{like.shape}")
    buffer[:, :, : rows.shape[2]] = rows
    return buffer
