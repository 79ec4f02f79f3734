"""How an answer is to be, as the fields that all endpoints share say it, over the model's own defaults."""

from __future__ import annotations

import dataclasses
from typing import Any

from edgesink.errors import BadOption
from edgesink.runtime.sampling import SamplingSpec
from edgesink.serve.answering import Wanted
from edgesink.serve.api_error import ApiError, refused
from edgesink.serve.fields import Fields

SAMPLING = frozenset({"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed"})
STOPS = 16  # strings; OpenAI takes 4


def wanted(
    fields: Fields, defaults: SamplingSpec, most_tokens: int, names: tuple[str, ...], usual_tokens: int | None = None
) -> Wanted:
    """What is asked for.

    Args:
        defaults: where a field is missing.
        most_tokens: of an answer, whatever is asked for.
        names: the fields that limit the answer's tokens, the first that is there counts.
        usual_tokens: of an answer, where none is; None is `most_tokens`.
    """
    asked = [fields.whole(name, 1, 1 << 31) for name in names]
    limit = next((count for count in asked if count is not None), usual_tokens or most_tokens)
    stop = fields.texts("stop", STOPS)
    if "" in stop:
        raise ApiError("stop has an empty string.", param="stop")
    return Wanted(_sampling(fields, defaults), min(limit, most_tokens), stop)


def include_usage(fields: Fields) -> bool:
    """Whether a stream is to end with its usage; ApiError for what is wrong with `stream_options`."""
    options = fields.inner("stream_options", {"include_usage", "include_obfuscation"})
    for name, value in options.items():
        if not isinstance(value, bool):
            raise ApiError(f"stream_options.{name} is not true or false.", param=f"stream_options.{name}")
    return bool(options.get("include_usage"))


def recall(fields: Fields, has_memory: bool) -> bool:
    """Whether something may come back for the message: `edgesink.recall`, true where it is not given."""
    value = fields.inner("edgesink", {"recall"}).get("recall")
    if value is not None and not isinstance(value, bool):
        raise ApiError("edgesink.recall is not true or false.", param="edgesink.recall")
    if value and not has_memory:
        message = "edgesink.recall = true is not supported: this server was started without --memory."
        raise ApiError(message, param="edgesink.recall")
    return has_memory if value is None else bool(value)


def _sampling(fields: Fields, defaults: SamplingSpec) -> SamplingSpec:
    given: dict[str, Any] = {
        "temperature": fields.number("temperature", 0, 2), "top_p": fields.number("top_p", 0, 1),
        "min_p": fields.number("min_p", 0, 1), "top_k": fields.whole("top_k", 0, 1 << 31),
        "repetition_penalty": fields.number("repetition_penalty", 1e-6, 1e6),
        "seed": fields.whole("seed", -(1 << 63), (1 << 64) - 1),
    }  # fmt: skip
    try:
        return dataclasses.replace(defaults, **{name: value for name, value in given.items() if value is not None})
    except BadOption as error:
        raise refused(error, error.found.partition(" ")[0]) from None
