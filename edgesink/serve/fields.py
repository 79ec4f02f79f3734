"""The fields of a request: read with their types, and none passed over that would have changed the answer.

Owns what becomes of a field that nobody asked for here: some are ignored, some may have the one value that we do
anyway, and all others are refused by name. Knows no endpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from edgesink import strict_json
from edgesink.serve.api_error import ApiError

IGNORED = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "prompt_cache_options", "prediction", "cache_prompt", "id_slot",
})  # fmt: skip
"""Fields that are about something else than the answer: accounting, caching, speed."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},),
    "modalities": (["text"],), "echo": (False,), "suffix": ("",), "background": (False,),
    "truncation": ("disabled", "auto"), "verbosity": ("medium",), "include": ([],),
}  # fmt: skip
"""Fields of which we do one value only."""


class Fields:
    """A JSON object of a client.

    Args:
        body: the JSON text.
        known: the fields that the endpoint asks for itself.
    Raises:
        ApiError: no JSON object, or a field that is not done here.
    """

    def __init__(self, body: bytes, known: Collection[str]) -> None:
        try:
            data = strict_json.parse(body)
        except ValueError as error:
            raise ApiError(f"The body is not JSON: {error}.", code="invalid_json") from None
        if not isinstance(data, dict):
            raise ApiError("The body is not a JSON object.", code="invalid_json")
        self._data = {name: value for name, value in data.items() if value is not None}
        for name, value in self._data.items():
            _check_known(name, value, known)

    def raw(self, name: str) -> Any:
        """As it came; None where it is missing."""
        return self._data.get(name)

    def text(self, name: str) -> str | None:
        """A string."""
        return self._typed(name, (str,), "a string")

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self._typed(name, (bool,), "true or false")
        return default if value is None else bool(value)

    def number(self, name: str, least: float, most: float) -> float | None:
        """A number in a range."""
        value = self._typed(name, (int, float), "a number")
        return None if value is None else float(_in_range(name, value, least, most))

    def whole(self, name: str, least: int, most: int) -> int | None:
        """A whole number in a range."""
        value = self._typed(name, (int,), "a whole number")
        return None if value is None else int(_in_range(name, value, least, most))

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        """A string, or a list of up to `most`."""
        value = self._data.get(name)
        items = [value] if isinstance(value, str) else value or []
        if not isinstance(items, list) or len(items) > most or not all(isinstance(item, str) for item in items):
            raise ApiError(f"{name} is not a string or a list of at most {most} strings.", param=name)
        return tuple(items)

    def inner(self, name: str, known: Collection[str]) -> Mapping[str, Any]:
        """An object with no other fields than these."""
        value = self._typed(name, (dict,), "an object") or {}
        if unknown := sorted(value.keys() - set(known)):
            raise ApiError(f"{name}.{unknown[0]} is not supported.", param=f"{name}.{unknown[0]}")
        return {key: item for key, item in value.items() if item is not None}

    def _typed(self, name: str, kinds: tuple[type, ...], what: str) -> Any:
        value = self._data.get(name)
        if value is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise ApiError(f"{name} is not {what}.", param=name)
        return value


def _in_range(name: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise ApiError(f"{name} = {value} is not in the range {least} to {most}.", param=name)
    return value


def _check_known(name: str, value: Any, known: Collection[str]) -> None:
    if name in known or name in IGNORED:
        return
    if name in NEUTRAL:
        check_neutral(name, value, name)
        return
    raise ApiError(f"The field {_short(name)} is not supported.", param=name[:64], code="unsupported_parameter")


def check_neutral(name: str, value: Any, param: str) -> None:
    """ApiError where a field of `NEUTRAL` asks for what is not done here; `param` is where it stands."""
    if not any(value == one and type(value) in (type(one), int, float) for one in NEUTRAL[name]):
        only = " or ".join(repr(one) for one in NEUTRAL[name])
        raise ApiError(f"{param} = {_short(value)} is not supported, only {only}.", param=param)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} …"
