"""jinja2 as transformers sets it up for chat templates (transformers/utils/chat_template_utils.py), to the letter.

Owns what a template may see and do. Knows no conversation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks what a model wrote, for training; here it is what stands in it."""

    tags = {"generation"}  # noqa: RUF012  (the base class wants a set)

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        """A block that writes its own body, in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """`dict` without the way from a class to the interpreter."""

    def __call__(self, *args: Any, **values: Any) -> dict:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict:
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    def __init__(*args: Any, **values: Any) -> None:  # a template may set `self`
        self, *rest = args
        for name in (given := dict(*rest, **values)):
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


def _raise(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment(strftime_now: Callable[[str], str]) -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """An environment for chat templates; `strftime_now(format)` is what they are told of the time."""
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals |= {
        "raise_exception": _raise, "strftime_now": strftime_now, "dict": _Dict(), "namespace": _Namespace,
    }  # fmt: skip
    return made
