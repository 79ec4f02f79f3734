"""What a conversation holds and how fast it goes, in one line that fits the terminal and in full.

Owns the words and what is left out where a line is short. Knows a conversation only by its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgesink.runtime.chat import Chat


@dataclass(frozen=True)
class Gauges:
    """The numbers of a conversation at one moment."""

    name: str  # of the model
    held: int  # tokens that the model sees now
    capacity: int  # tokens that it sees at most
    pinned: int  # of them never forgotten
    forgotten: int  # tokens
    state_bytes: int  # from the first token to the last
    tokens_per_second: float | None = None  # of the last answer; None before there is one

    @classmethod
    def of(cls, chat: Chat, tokens_per_second: float | None = None) -> Gauges:
        """Those of a conversation as it stands."""
        stream = chat.stream
        held = min(stream.position, stream.capacity)
        sinks = min(stream.sinks, stream.position)
        name = stream.manifest.name
        return cls(name, held, stream.capacity, sinks, stream.evicted, stream.state_bytes, tokens_per_second)


def status_line(gauges: Gauges, width: int) -> str:
    """As much as fits `width` columns: the ring first, then what is forgotten, the speed, the state, the name."""
    numbers = f"{gauges.held}/{gauges.capacity}"
    ring = f"{_bar(gauges)} {numbers}"
    speed = "" if gauges.tokens_per_second is None else f"{gauges.tokens_per_second:.0f} tokens/s"
    megabytes = f"{gauges.state_bytes / 1e6:.0f} MB"
    candidates = (
        [
            gauges.name, f"{ring} tokens held, {gauges.pinned} pinned", f"{gauges.forgotten} forgotten", speed,
            f"{megabytes} of state, always",
        ],
        [gauges.name, f"{ring}, {gauges.pinned} pinned", f"{gauges.forgotten} forgotten", speed, megabytes],
        [ring, f"{gauges.forgotten} forgotten", speed, megabytes],
        [numbers, f"{gauges.forgotten} forgotten", speed.replace(" tokens", ""), megabytes],
        [numbers, f"{gauges.forgotten} forgotten", megabytes],
        [numbers],
    )  # fmt: skip
    lines = [" · ".join(part for part in parts if part) for parts in candidates]
    return next((line for line in lines if len(line) <= width), "")


def memory_words(gauges: Gauges) -> str:
    """What is held and what was forgotten."""
    return (
        f"{gauges.held} of {gauges.capacity} tokens held ({gauges.pinned} pinned), "
        f"{gauges.forgotten} forgotten, {gauges.state_bytes / 1e6:.1f} MB of state"
    )


def _bar(gauges: Gauges, cells: int = 8) -> str:
    """How full the ring is, in eight cells; one is filled from the first token on."""
    filled = -(-gauges.held * cells // gauges.capacity)
    return "▰" * filled + "▱" * (cells - filled)
