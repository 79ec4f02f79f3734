"""What was said in a conversation, turn by turn, and where in the stream it stands.

Owns the words of a transcript and its form as data. Knows no tokenizer and no stream: positions are given to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: Role
    text: str  # as it was said; of an answer without control tokens
    start: int  # position in the stream of the first token that belongs to it, what the template writes included
    end: int  # position behind its last token
    cut: bool = False  # it was stopped before its end: an answer by the user, a message while it was being read


@dataclass(frozen=True)
class Eviction:
    """What the model has just stopped seeing."""

    tokens: int  # of the stream that are forgotten by now, in all
    turns: tuple[Turn, ...]  # those of which it sees nothing any more since the last time


def turns_as_data(turns: Iterable[Turn]) -> list[dict[str, Any]]:
    """As JSON holds them."""
    return [asdict(turn) for turn in turns]


def turns_of_data(data: Any) -> list[Turn]:
    """Turns that `turns_as_data` wrote; ValueError for anything else."""
    if not isinstance(data, list):
        raise ValueError("its transcript is no list")
    return [_turn(item) for item in data]


def _turn(item: Any) -> Turn:
    kinds = {"role": str, "text": str, "start": int, "end": int, "cut": bool}
    if not isinstance(item, dict) or {name: type(value) for name, value in item.items()} != kinds:
        raise ValueError("a turn of its transcript is damaged")
    if item["role"] not in ("system", "user", "assistant") or not 0 <= item["start"] <= item["end"]:
        raise ValueError("a turn of its transcript is impossible")
    return Turn(**item)


def in_one_line(text: str, most: int) -> str:
    """A text without its line breaks, cut to `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def exchanges(turns: Sequence[Turn]) -> int:
    """How many messages of the user there are."""
    return sum(turn.role == "user" for turn in turns)
