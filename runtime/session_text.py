"""Sessions for people and for other programs: a title, a summary, a transcript as Markdown, plain data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from edgesink.runtime.saved_chat import SavedChat
from edgesink.runtime.transcript import Turn, exchanges, in_one_line, turns_as_data

NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


def title(saved: SavedChat, most: int = 40) -> str:
    """The beginning of the first message, in one line."""
    return in_one_line(next((turn.text for turn in saved.chat.turns if turn.role == "user"), ""), most)


def summary(saved: SavedChat, size: int) -> str:
    """What a session is, in a few lines; `size`: bytes of its file."""
    asked = exchanges(saved.chat.turns)
    lines = [
        f"model     {saved.model}",
        f"talk      {asked} message{'' if asked == 1 else 's'}, {saved.position} tokens ({saved.sinks} pinned)",
        f"began     {saved.began}",
        f"saved     {saved.saved}, {size / 1e6:.1f} MB",
        f"computed  by {saved.runner}",
    ]
    return "\n".join(lines)


def as_markdown(turns: Iterable[Turn]) -> str:
    """A heading for every turn, and its text as it was said."""
    return "".join(f"\n## {NAMES[turn.role]}{' (cut short)' if turn.cut else ''}\n\n{turn.text}\n" for turn in turns)


def document(saved: SavedChat) -> str:
    """The whole transcript as a Markdown document."""
    return f"# {title(saved, 80)}\n\n{saved.model}, {saved.began} to {saved.saved}\n{as_markdown(saved.chat.turns)}"


def as_data(saved: SavedChat, turns: bool = True) -> dict[str, Any]:
    """What JSON holds of it, for other programs; `turns`: the transcript too, in the roles that chat programs use."""
    data = {
        "model": saved.model, "fingerprint": saved.fingerprint, "began": saved.began, "saved": saved.saved,
        "tokens": saved.position, "sinks": saved.sinks, "system": saved.chat.system,
        "sampling": asdict(saved.chat.sampling), "messages": exchanges(saved.chat.turns),
    }  # fmt: skip
    return data | ({"turns": turns_as_data(saved.chat.turns)} if turns else {})
