"""The named values of a checkpoint's header, read by name: each is used, or refused by name.

Owns the rule that nothing in a config.json or a GGUF header goes unseen. A value that is read is checked for its type
and range; `refuse_unread` then refuses whatever nobody asked for. So what a family reads is what it supports, and the
list of what it reads cannot go stale. Knows no field of any family.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from edgesink.errors import BadCheckpoint

LARGEST = 1 << 31  # no size of a model is larger; a damaged field often is


class Fields:
    """Values by name, each asked for once and checked.

    Args:
        values: what the file says.
        where: the file and, for nested values, their place in it; for messages.
        defaults: what counts where the file says nothing.
        prefix: of every name of the file, left out when a value is asked for: "llama." in a GGUF.
    """

    def __init__(
        self, values: Mapping[str, Any], where: str, defaults: Mapping[str, Any] | None = None, prefix: str = ""
    ) -> None:
        self._values = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        self.where, self._defaults, self._prefix = where, defaults or {}, prefix
        self._unread = set(self._values)
        self._parts: list[Fields] = []

    def get(self, name: str) -> Any:
        """The value as it stands, unchecked; None if it is null, or absent and without a default."""
        self._unread.discard(name)
        return self._values[name] if name in self._values else self._defaults.get(name)

    def says(self, name: str) -> bool:
        """The file itself has a value there."""
        return self._values.get(name) is not None

    def count(self, name: str, default: int | None = None, most: int = LARGEST) -> int:
        """An integer from 1 to `most`; `default` where it is null or absent."""
        value = self._required(name, default)
        if type(value) is not int or not 1 <= value <= most:
            raise self.error(name, f"an integer from 1 to {most}")
        return value

    def number(self, name: str, default: float | None = None, below: float = math.inf) -> float:
        """A number above 0 and below `below`; `default` where it is null or absent."""
        value = self._required(name, default)
        if type(value) not in (int, float) or not 0 < value < below:
            raise self.error(name, "a number above 0" + ("" if below == math.inf else f" and below {below:g}"))
        return float(value)

    def count_or_none(self, name: str) -> int | None:
        """A count that may be null."""
        return None if self.get(name) is None else self.count(name)

    def float_or_none(self, name: str) -> float | None:
        """A number above 0 that may be null; an integer is none, as transformers has it of such fields."""
        if type(self.get(name)) is int:
            raise self.error(name, "a number above 0 with a decimal point, or null")
        return None if self.get(name) is None else self.number(name)

    def numbers(self, name: str, length: int) -> list[float]:
        """A list of `length` numbers above 0."""
        values = self.get(name)
        good = isinstance(values, list) and len(values) == length
        if not good or not all(type(value) in (int, float) and 0 < value < math.inf for value in values):
            raise self.error(name, f"{length} numbers above 0")
        return [float(value) for value in values]

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or false; `default` where it is null or absent."""
        value = self._required(name, default)
        if type(value) is not bool:
            raise self.error(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string; `default` where it is null or absent."""
        value = self._required(name, default)
        if type(value) is not str:
            raise self.error(name, "a string")
        return value

    def one_of(self, name: str, allowed: Collection[str], default: str | None = None) -> str:
        """One of the strings that the decoder computes."""
        value = self.text(name, default)
        if value not in allowed:
            raise self.error(name, " or ".join(map(repr, allowed)))
        return value

    def section(self, name: str) -> Mapping[str, Any]:
        """Nested values; none where they are null or absent."""
        value = self.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(name, "a JSON object")
        return value

    def nested(self, name: str, values: Mapping[str, Any]) -> Fields:
        """Values found under `name`, to be read by name in their turn."""
        return Fields(values, f"{self.where}: {self._prefix}{name}")

    def part(self, name: str, defaults: Mapping[str, Any]) -> Fields:
        """A config of its own under `name`: what is unread there is refused with what is unread here."""
        self._parts.append(Fields(self.section(name), f"{self.where}: {self._prefix}{name}", defaults))
        return self._parts[-1]

    def refuse_unread(
        self, neutral: Mapping[str, Any], harmless: Collection[str] = (), meanings: Mapping[str, str] | None = None
    ) -> None:
        """BadCheckpoint for the first value that nobody asked for, but for those that change no logit.

        Args:
            neutral: fields that may stand there with this one value: what they switch on is switched off.
            harmless: fields that may have any value.
            meanings: what an unread field means, and after a semicolon the way out, for the message.
        """
        for name in sorted(self._unread.difference(harmless)):
            value = self._values[name]
            if value is None or (name in neutral and same(value, neutral[name])):
                continue
            expected = f"{short(neutral[name])}" if name in neutral else "only fields that the decoder computes"
            meaning, _, remedy = (meanings or {}).get(name, "").partition("; ")
            raise self.error(name, expected, meaning, remedy or "choose another model")
        for part in self._parts:
            part.refuse_unread(neutral, harmless, meanings)

    def error(self, name: str, expected: str, meaning: str = "", remedy: str = "") -> BadCheckpoint:
        """The failure of one field: where it stands, its value, what would be right, what to do."""
        full = self._prefix + name
        if name not in self._values and name not in self._defaults:
            return BadCheckpoint(f"{self.where} lacks {full}", expected)
        value = self._values[name] if name in self._values else self._defaults[name]
        found = f"{self.where} has {full} = {short(value)}"
        return BadCheckpoint(f"{found}: {meaning}" if meaning else found, expected, remedy)

    def _required(self, name: str, default: Any) -> Any:
        value = self.get(name)
        return default if value is None else value


def same(value: Any, other: Any) -> bool:
    """Equal, and not a number where the other is a truth value."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def short(value: Any) -> str:
    """A value as a message shows it, of at most 60 characters."""
    text = repr(value) if not isinstance(value, (list, dict)) or len(value) < 20 else f"{len(value)} values"
    return text if len(text) <= 60 else f"{text[:57]}…"
