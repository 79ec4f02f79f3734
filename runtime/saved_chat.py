"""A conversation on disk: the state of its stream, its transcript, its random numbers and its settings, in one file.

Owns the format: a safetensors file whose tensors are the rows that were ever written, in the type in which the stream
held them, so that nothing is rounded; and whose header has the rest as JSON. Both have a SHA-256, so a file that is
damaged anywhere is known to be. The header alone says what a conversation is about: no model is needed to list or show
one. Older files, which `session_file` writes, hold a state only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from edgesink import strict_json
from edgesink.errors import BadOption, BadSession, first_line
from edgesink.files import durable_write
from edgesink.manifest import Manifest
from edgesink.runtime.sampling import SamplingSpec
from edgesink.runtime.session_file import FORMAT as STATE_FORMAT
from edgesink.runtime.session_file import MOST_POSITION, SavedSession, room_for
from edgesink.runtime.transcript import Turn, turns_as_data, turns_of_data
from edgesink.runtime.turn_feed import Unfed
from edgesink.spec import Evict
from edgesink.tokenizer_file import well_formed

FORMAT = "2"
HEADER = {"edgesink_session", "fingerprint", "chat", "chat_sha256", "state_sha256"}
DTYPES = (np.float32, np.float16)  # of a state
LONGEST_QUEUE = 1 << 24  # ids that wait to be fed; more is a damaged file
ANOTHER = "start a new session under another name, or remove this one"


@dataclass(frozen=True)
class ChatState:
    """Where a conversation stands, without the state of its stream."""

    system: str | None
    turns: tuple[Turn, ...]
    unfed: Unfed
    random: int  # the state of the generator of random numbers
    sampling: SamplingSpec
    evict: Evict = "plain"  # how the window moves on
    marks: tuple[int, ...] = ()  # positions that it should begin with


@dataclass(frozen=True)
class SavedChat:
    """What the header of a session file says."""

    fingerprint: str  # of the bundle
    model: str  # its name, for people
    runner: str  # what computed the state
    began: str  # ISO, local time
    saved: str
    position: int
    sinks: int
    chat: ChatState
    settings: dict[str, Any]  # of whoever keeps the session: numbers, texts, booleans


def write_chat(path: Path, saved: SavedChat, state: Mapping[str, np.ndarray]) -> None:
    """Write it durably, whole or not at all; the lock for `path` must be held.

    Raises:
        BadPlace, NoSpace: it cannot be; what stood at `path` is as it was.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
    chat = well_formed(json.dumps(_as_data(saved), ensure_ascii=False, separators=(",", ":")))
    header = {
        "edgesink_session": FORMAT, "fingerprint": saved.fingerprint, "chat": chat, "chat_sha256": _digest(chat),
        "state_sha256": _digest_of(arrays),
    }  # fmt: skip
    with room_for(path), durable_write(path) as aside:
        save_file(arrays, aside, header)


def is_state_only(path: Path) -> bool:
    """Whether the file is one that `session_file` wrote; BadSession for none, or one that cannot be read."""
    with _reading(path) as file:
        return bool((file.metadata() or {}).get("edgesink_session") == STATE_FORMAT)


def read_header(path: Path) -> SavedChat:
    """What it says of the conversation; BadSession for no such file, another format, or a damaged one."""
    with _reading(path) as file:
        return _header(path, file)


def read_chat(path: Path, manifest: Manifest, empty: dict[str, np.ndarray]) -> tuple[SavedChat, SavedSession, bool]:
    """The whole of it, for a stream of the bundle.

    Args:
        empty: buffers of zeros as the stream holds them; they are filled.

    Returns:
        the header; the stream; whether its state was rounded to the type of `empty`.
    Raises:
        BadSession: no such file, one of another bundle, or one that is damaged.
    """
    with _reading(path) as file:
        saved = _header(path, file)
        if saved.fingerprint != manifest.fingerprint:
            raise BadSession(
                f"{path} belongs to another bundle, of {saved.model}", "",
                f"load the bundle that it was saved with, or {ANOTHER}",
            )  # fmt: skip
        if saved.sinks > manifest.stream.max_sinks or sorted(file.keys()) != sorted(empty):
            raise ValueError("its state is not of such a stream")
        state = {name: file.get_tensor(name) for name in sorted(empty)}
        if _digest_of(state) != file.metadata()["state_sha256"]:
            raise ValueError("its state is not what was saved")
        rounded = False
        for name, buffer in empty.items():
            array = state[name]
            rows = min(saved.position, buffer.shape[2])
            if array.shape != (*buffer.shape[:2], rows, buffer.shape[3]) or array.dtype not in DTYPES:
                raise ValueError(f"{name} is {array.dtype}{list(array.shape)}")
            rounded |= array.dtype.itemsize > buffer.dtype.itemsize
            buffer[:, :, :rows] = array
        return saved, SavedSession(saved.position, saved.sinks, empty), rounded


class _reading:  # noqa: N801  (a context manager that reads like a verb)
    """The file open; whatever goes wrong with it is a BadSession."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        if not os.path.isfile(self._path):
            raise BadSession(f"no session file {self._path}", "", "save one first; see `edgesink sessions list`")
        try:
            self._file = safe_open(self._path, framework="numpy")
            return self._file.__enter__()
        except (SafetensorError, OSError) as error:
            raise self._damaged(error) from None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._file.__exit__(kind, error, trace)
        if isinstance(error, SafetensorError | ValueError | OSError | KeyError):
            raise self._damaged(error) from None

    def _damaged(self, error: BaseException) -> BadSession:
        return BadSession(f"{self._path} is damaged ({first_line(error)})", "", f"restore a copy, or {ANOTHER}")


def _header(path: Path, file: Any) -> SavedChat:
    header = file.metadata() or {}
    if header.get("edgesink_session") == STATE_FORMAT:
        raise BadSession(f"{path} has no transcript", "a session that `edgesink chat --session` keeps")
    if header.get("edgesink_session") != FORMAT:
        raise BadSession(f"{path} is no session of this version", f"format {FORMAT}", "update edgesink")
    if set(header) != HEADER:
        raise ValueError(f"its header has the fields {', '.join(sorted(header))}")
    if _digest(header["chat"]) != header["chat_sha256"]:
        raise ValueError("its transcript is not what was saved")
    return _of_data(header["fingerprint"], strict_json.parse(header["chat"]))


def _as_data(saved: SavedChat) -> dict[str, Any]:
    chat = saved.chat
    return {
        "model": saved.model, "runner": saved.runner, "began": saved.began, "saved": saved.saved,
        "position": saved.position, "sinks": saved.sinks, "system": chat.system, "turns": turns_as_data(chat.turns),
        "unfed": asdict(chat.unfed), "random": chat.random, "sampling": asdict(chat.sampling),
        "evict": chat.evict, "marks": list(chat.marks), "settings": saved.settings,
    }  # fmt: skip


def _of_data(fingerprint: str, data: Any) -> SavedChat:
    """ValueError for what `_as_data` cannot have made."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "model": str, "runner": str, "began": str, "saved": str, "position": int, "sinks": int,
        "system": (str, type(None)), "turns": list, "unfed": dict, "random": int, "sampling": dict, "evict": str,
        "marks": list, "settings": dict,
    }  # fmt: skip
    if not isinstance(data, dict) or set(data) != set(kinds):
        raise ValueError("its transcript has other fields")
    if odd := [name for name, kind in kinds.items() if not isinstance(data[name], kind)]:
        raise ValueError(f"its {odd[0]} is of another kind")
    if not 0 <= data["position"] <= MOST_POSITION or data["sinks"] < 0 or not 0 <= data["random"] < 1 << 64:
        raise ValueError("its position, its sinks or its random numbers are impossible")
    if not all(type(mark) is int and 0 <= mark <= MOST_POSITION for mark in data["marks"]):
        raise ValueError("its marks are impossible")
    if data["evict"] not in ("turns", "plain"):
        raise ValueError("its eviction is of no known kind")
    for date in ("began", "saved"):
        datetime.fromisoformat(data[date])
    chat = ChatState(
        data["system"], tuple(turns_of_data(data["turns"])), _unfed(data["unfed"]), data["random"],
        _sampling(data["sampling"]), data["evict"], tuple(data["marks"]),
    )  # fmt: skip
    return SavedChat(
        fingerprint, data["model"], data["runner"], data["began"], data["saved"], data["position"], data["sinks"], chat,
        data["settings"],
    )  # fmt: skip


def _unfed(data: dict[str, Any]) -> Unfed:
    if set(data) != {field.name for field in fields(Unfed)}:
        raise ValueError("what was still to be read has other fields")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    numbers = [one for value in values.values() for one in (value if isinstance(value, tuple) else (value,))]
    if len(numbers) > LONGEST_QUEUE or not all(type(one) is int and 0 <= one <= MOST_POSITION for one in numbers):
        raise ValueError("what was still to be read is impossible")
    return Unfed(**values)


def _sampling(data: dict[str, Any]) -> SamplingSpec:
    if unknown := sorted(set(data) - {field.name for field in fields(SamplingSpec)}):
        raise ValueError(f"its sampling has an unknown field {unknown[0]}")
    if not all(type(value) in (int, float) or (name == "seed" and value is None) for name, value in data.items()):
        raise ValueError("its sampling is no numbers")
    try:
        return SamplingSpec(**data)
    except BadOption as error:
        raise ValueError(str(error)) from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {list(array.shape)}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
