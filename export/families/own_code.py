"""The code that folders of the hub may bring along, where it is of a decoder that we know."""

from __future__ import annotations

from collections.abc import Mapping

from edgesink.export.families.fields import Fields


def check_own_code(config: Fields, known: Mapping[str, str]) -> None:
    """BadCheckpoint if `auto_map` names other code than `known`; a tokenizer computes no logit."""
    code = {**config.section("auto_map"), "AutoTokenizer": None}
    if any(code[what] != known.get(what) for what in code):
        raise config.error("auto_map", f"{dict(known)} or less")
