"""Sessions: conversations that are kept in a file each, under a name, and outlive the process that talks.

Owns where they are, who has one open (one process at a time), when they are written, and what is said where a session
and today's options differ. The file is `saved_chat`'s. A session costs the bytes of the stream's state and those of
its text, and is written whole after every exchange: what is on the disk is the conversation as it stood behind an
exchange, never half of one.

    with Session.open("diary") as session:
        remarks = session.resume(chat)      # sentences for people; [] for a new session
        for token in chat.answer("Hello"):
            print(token.text, end="")
        session.save(chat)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesink.errors import BadOption, BadSession
from edgesink.files import check_file_goal, place_errors, sweep_durable
from edgesink.locks import alone
from edgesink.paths import expanded, state_folder
from edgesink.runtime.saved_chat import SavedChat, is_state_only, read_chat, read_header, write_chat
from edgesink.runtime.transcript import in_one_line

if TYPE_CHECKING:
    from edgesink.runtime.chat import Chat

SUFFIX = ".session"
MEMORY_SUFFIX = ".memory"  # behind a session's whole name: what of it is remembered beyond the window
_OF_MEMORY = re.compile(r"(\.damaged-\d+)?(-wal|-shm)?")  # behind that: goes with the file
NAME = re.compile(r"\w[\w.-]{0,79}")
ELSEWHERE = "set EDGESINK_STATE to a folder that may be written, or give a path"


def session_path(name: str | Path) -> Path:
    """Where a session is: a name's file in the user's state folder, or the path itself.

    A path is what has a separator in it or stands in the current folder as a file; BadOption for what is neither.
    """
    text = str(name)
    if isinstance(name, Path) or os.sep in text or (os.altsep or os.sep) in text or text.startswith("~"):
        return expanded(name)
    if os.path.isfile(text):
        return Path(text)
    if not NAME.fullmatch(text):
        raise BadOption(f"a session named {text!r}", "letters, digits, dots, dashes, at most 80; or a path with a /")
    return state_folder("sessions") / (text + SUFFIX)


def memory_path(session: Path) -> Path:
    """Where the memory of a session is, if it has one."""
    return session.with_name(session.name + MEMORY_SUFFIX)


def check_session(name: str | Path) -> None:
    """BadPlace or BadOption if no session can be kept there: to be known before a model is loaded."""
    path = session_path(name)
    if path.parent != state_folder("sessions"):
        check_file_goal(path)


class Session:
    """A session that is open: no other process can open it until `close`, or until this process ends.

    Attributes:
        path: of its file.
        settings: whatever its keeper wants to find again; written with the next `save`.
    """

    def __init__(self, path: Path, lock: ExitStack) -> None:
        self.path, self._lock = path, lock
        self.settings: dict[str, Any] = {}
        self._began = _now()
        self._written: tuple[object, ...] | None = None  # what is on the disk

    @classmethod
    def open(cls, name: str | Path) -> Session:
        """Open a session, which need not exist.

        Raises:
            BadSession: another process has it open.
            BadPlace, BadOption: it cannot be where it is wanted.
        """
        path = session_path(name)
        with place_errors(path, ELSEWHERE):
            if path.parent == state_folder("sessions"):
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = check_file_goal(path)
            lock = ExitStack()
            try:
                lock.enter_context(alone(path))
            except BlockingIOError as error:
                raise BadSession(f"{path} is open in {error}", "one at a time", "close it there first") from None
        sweep_durable(path)
        return cls(path, lock)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others open it. What was not saved is not kept."""
        self._lock.close()

    @property
    def is_new(self) -> bool:
        """Whether nothing has been saved yet."""
        return not os.path.lexists(self.path)

    def resume(self, chat: Chat, given: Mapping[str, object] | None = None) -> list[str]:
        """Take up the session in a chat, if there is something to take up.

        Args:
            given: what the user has set this time: fields of `SamplingSpec`, which are kept, while the others become
                the session's; and `sinks`, which are not.

        Returns:
            sentences about what differs from today's options.
        Raises:
            BadSession: it is of another bundle, or damaged; the chat is as it was.
        """
        if self.is_new:
            return []
        given = dict(given or {})
        system, sinks = chat.system, given.pop("sinks", None)
        remarks, saved = take_up(chat, self.path, given)
        if saved is None:  # an older file: what was said is not in it
            system_kept = "the system prompt that it began with"
        else:
            system_kept = "no system prompt" if saved.chat.system is None else f"{_short(saved.chat.system)!r}"
            self._began, self.settings = saved.began, dict(saved.settings)
            self._written = self._mark(chat)
        if system is not None and chat.stream.position and (saved is None or saved.chat.system != system):
            remarks.append(f"the system prompt {_short(system)!r} is ignored: the session keeps {system_kept}")
        if sinks is not None and chat.stream.sinks != sinks:
            remarks.append(f"the session keeps the {chat.stream.sinks} sinks that it began with, not {sinks}")
        return remarks

    def save(self, chat: Chat) -> None:
        """Write the conversation as it stands, on the disk when this returns; nothing if nothing has changed.

        Raises:
            NoSpace, BadPlace: it cannot be written; what was saved before is as it was.
        """
        mark = self._mark(chat)
        if mark == self._written:
            return
        write_session_file(self.path, chat, self.settings, self._began)
        self._written = mark

    def _mark(self, chat: Chat) -> tuple[object, ...]:
        """What changes whenever the conversation does."""
        return chat.state, chat.stream.position, chat.stream.sinks, tuple(sorted(self.settings.items()))


def write_session_file(path: Path, chat: Chat, settings: Mapping[str, Any] | None = None, began: str = "") -> None:
    """Write a conversation to a file of its own, as `Session.save` does; for copies that nobody else writes."""
    stream = chat.stream
    saved = SavedChat(
        stream.manifest.fingerprint, stream.manifest.name, stream.runner, began or _now(), _now(), stream.position,
        stream.sinks, chat.state, dict(settings or {}),
    )  # fmt: skip
    write_chat(path, saved, stream.written())


def take_up(chat: Chat, path: Path, given: Mapping[str, object] | None = None) -> tuple[list[str], SavedChat | None]:
    """Go on in `chat` from any session file, an older one too.

    Returns:
        sentences about sampling and runners that differ; the header, None for an older file, which has no transcript.
    Raises:
        BadSession: no such file, one of another bundle, or a damaged one; the chat is as it was.
    """
    if is_state_only(path):
        chat.restore(path)
        return [], None
    stream = chat.stream
    saved, kept, rounded = read_chat(path, stream.manifest, stream.empty_state())
    feed = chat.prepared(saved.chat)
    stream.go_on(kept)
    chat.go_on(saved.chat, feed)
    remarks = _sampling_remarks(chat, saved, given or {})
    if rounded:
        remarks.append(f"its state was held in float32 by {saved.runner}; here it is rounded to float16")
    elif saved.runner != stream.runner:
        remarks.append(f"it was computed by {saved.runner}, and goes on with {stream.runner}: answers may differ a bit")
    return remarks, saved


def _sampling_remarks(chat: Chat, saved: SavedChat, given: Mapping[str, object]) -> list[str]:
    now, before = chat.sampling, saved.chat.sampling
    changes = {name: getattr(now, name) for name in given if getattr(now, name) != getattr(before, name)}
    chat.take_sampling(before)
    chat.set_sampling(**changes)
    return [f"{name} is {value} now, and was {getattr(before, name)} before" for name, value in changes.items()]


@dataclass(frozen=True)
class Listed:
    """One session of the user's state folder."""

    name: str
    path: Path
    bytes: int
    saved: SavedChat | None  # None: it cannot be read
    trouble: str = ""  # why

    @property
    def memory_bytes(self) -> int:
        """Of the memory beside it; 0 if it has none."""
        try:
            return memory_path(self.path).stat().st_size
        except OSError:
            return 0


def list_sessions() -> Iterator[Listed]:
    """Those in the user's state folder, the latest first."""
    folder, found = state_folder("sessions"), []
    if folder.is_dir():
        with place_errors(folder, ELSEWHERE):
            found = [one for one in folder.iterdir() if one.name.endswith(SUFFIX) and not one.name.startswith(".")]
    for path in sorted(found, key=lambda one: -one.stat().st_mtime_ns):
        name = path.name.removesuffix(SUFFIX)
        try:
            yield Listed(name, path, path.stat().st_size, read_header(path))
        except BadSession as error:
            yield Listed(name, path, path.stat().st_size, None, str(error))


def remove_session(name: str | Path) -> None:
    """Remove a session and its memory for good; BadSession if there is none, or another process has it open."""
    path = session_path(name)
    if not os.path.lexists(path) and not os.path.lexists(memory_path(path)):
        raise BadSession(f"no session {name}", "", "see `edgesink sessions list`")
    with Session.open(name), place_errors(path):
        memory = memory_path(path)
        for one in [*path.parent.iterdir()]:
            if one.name.startswith(memory.name) and _OF_MEMORY.fullmatch(one.name.removeprefix(memory.name)):
                one.unlink()
        path.unlink(missing_ok=True)


def _short(text: str) -> str:
    return in_one_line(text, 40)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
