"""A checkpoint's chat templates by name, and the special tokens that a template may ask for: of a folder and of a GGUF.

Owns where they are written down. What a template does is `edgesink.export.chat`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesink.errors import BadCheckpoint, first_line
from edgesink.export.checkpoint.config import read_object
from edgesink.export.families.fields import short
from edgesink.manifest import CHAT_TEMPLATE

DEFAULT = "default"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_GGUF_NAMES = {"unk_token": "unknown", "pad_token": "padding", "sep_token": "seperator"}  # spelled so in the format
_GGUF_TEMPLATE = "tokenizer.chat_template"


def folder_templates(folder: Path) -> dict[str, str]:
    """Every chat template of a checkpoint folder by its name; files of their own before fields of others."""
    found: dict[str, str] = {}
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            found |= _named(read_object(folder / name).get("chat_template"), folder / name)
    if (folder / CHAT_TEMPLATE).is_file():
        found[DEFAULT] = _text(folder / CHAT_TEMPLATE)
    return found | {path.stem: _text(path) for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}


def folder_special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens that the tokenizer declares, by the names that templates have for them."""
    declared: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            declared |= {key: value for key, value in read_object(folder / name).items() if value is not None}
    contents = {
        name: token.get("content") if isinstance(token, dict) else token
        for name, token in declared.items() if name in SPECIAL_TOKENS
    }  # fmt: skip
    return {name: content for name, content in contents.items() if type(content) is str}


def gguf_templates(fields: Mapping[str, Any], where: str) -> dict[str, str]:
    """Every chat template of a GGUF file by its name."""
    found = {}
    for field, template in fields.items():
        if field == _GGUF_TEMPLATE or field.startswith(f"{_GGUF_TEMPLATE}."):
            if type(template) is not str:
                raise BadCheckpoint(f"{where} has a {field} that is not a text", "a string")
            found[field.removeprefix(_GGUF_TEMPLATE).removeprefix(".") or DEFAULT] = template
    return found


def gguf_special_tokens(fields: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that a GGUF declares; an id without a token names none."""
    tokens = fields.get("tokenizer.ggml.tokens")
    found = {}
    for name in SPECIAL_TOKENS:
        id_ = fields.get(f"tokenizer.ggml.{_GGUF_NAMES.get(name, name.removesuffix('_token'))}_token_id")
        if type(id_) is int and isinstance(tokens, list) and 0 <= id_ < len(tokens) and type(tokens[id_]) is str:
            found[name] = tokens[id_]
    return found


def _named(templates: Any, where: Path) -> dict[str, str]:
    """The field `chat_template`: one, or a list of several with names."""
    if templates is None:
        return {}
    entries = templates if isinstance(templates, list) else [{"name": DEFAULT, "template": templates}]
    found = {}
    for entry in entries:
        name, template = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if type(name) is not str or type(template) is not str:
            raise BadCheckpoint(f"{where} has the chat_template {short(templates)}", "a text, or a list of named ones")
        found[name] = template
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{path} cannot be read ({first_line(error)})", "a text in UTF-8") from None
