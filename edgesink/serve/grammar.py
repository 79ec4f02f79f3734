"""Keeps answers in a grammar, through llguidance: a JSON schema, or calls of tools within text.

Owns the library's twin of the tokenizer, which takes seconds to make and is made when it is first needed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

from edgesink.manifest import Manifest
from edgesink.runtime.tokenizer import Tokenizer
from edgesink.serve.api_error import ApiError

STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is written: as models mostly do, and with no white space in which a small model could lose itself."""

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class Grammars:
    """Grammars over the tokens of one model."""

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer) -> None:
        self._manifest, self._source = manifest, tokenizer
        self._lock = threading.Lock()

    def matcher_of(self, grammar: str, param: str) -> Callable[[], Any]:
        """Makes matchers of a grammar in llguidance's form, each at its beginning.

        Raises:
            ApiError: the library does not understand it, or does not do all of it; `param` is the field it came in.
        """
        from llguidance import LLMatcher

        with self._lock:
            twin = self._tokenizer
        first = LLMatcher(twin, grammar, log_level=0)
        probe = first.deep_copy()
        probe.compute_bitmask()
        if probe.is_error() or (probe.is_stopped() and not probe.is_accepting()):
            why = (probe.get_error().strip().splitlines() or ["no text fits it"])[0]
            raise ApiError(f"{param} is not supported: {why[:300]}", param=param)
        return first.deep_copy

    def controls(self, texts: Iterable[str]) -> dict[str, int]:
        """Those of the texts that are one token and no text to the library, as it takes all in angle brackets to be."""
        with self._lock:
            ids = {text: self._source.inner.token_to_id(text) for text in texts}
            return {text: id_ for text, id_ in ids.items() if id_ is not None and self._tokenizer.is_special_token(id_)}

    def prepare(self) -> None:
        """Make the twin now, on a thread that may wait for it; ApiError if this model can have none."""
        with self._lock:
            _ = self._tokenizer

    def bytes_of(self, token_id: int) -> bytes:
        """What a token is in a text."""
        with self._lock:
            found: bytes = self._tokenizer.decode_bytes([token_id])
        return found

    @cached_property
    def _tokenizer(self) -> Any:
        from llguidance import LLTokenizer

        manifest = self._manifest
        end = manifest.turns.end_id if manifest.turns else None
        if end is None or end not in manifest.eos_ids:
            end = manifest.eos_ids[0] if manifest.eos_ids else None
        if end is None:
            raise ApiError("This model has no token that ends an answer: it has no formats, tools and logprobs.")
        return LLTokenizer(self._source.inner.to_str(), n_vocab=manifest.vocab, eos_token=end)


def schema_grammar(schema: Mapping[str, Any], param: str) -> str:
    """The grammar of JSON texts of a schema; ApiError if it is nested too deeply."""
    from llguidance import LLMatcher

    try:
        grammar: str = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=STYLE)
    except (ValueError, RecursionError):
        raise ApiError(f"{param} is nested too deeply.", param=param) from None
    return grammar


def styled(schema: Mapping[str, Any]) -> str:
    """A schema as text, to stand in a larger grammar."""
    return json.dumps({**schema, "x-guidance": STYLE})
