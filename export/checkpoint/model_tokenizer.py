"""A checkpoint's tokenizer as a bundle has it.

Owns what becomes of the file: added tokens that stand in other files are put in, and what is done to texts for training
is taken out (truncation, padding, tokens behind the text). Ids are those that transformers gives.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

from edgesink.errors import BadBundle, BadCheckpoint, first_line
from edgesink.export.checkpoint.config import read_object
from edgesink.export.families.fields import short
from edgesink.manifest import TOKENIZER
from edgesink.text_decoder import TextDecoder
from edgesink.tokenizer_file import front_of, open_tokenizer

CONFIG, ADDED = "tokenizer_config.json", "added_tokens.json"
MOST_ADDED = 1 << 16  # ids beyond the embedding that a file may name

T = TypeVar("T")


@dataclass(frozen=True)
class ModelTokenizer:
    """A tokenizer that a bundle can have."""

    inner: tokenizers.Tokenizer
    front: tuple[int, ...]  # put before a text that is not a chat
    eos_id: int | None  # of the token that it declares to be the end
    dropped: tuple[str, ...]  # added tokens for which the embedding has no row

    @property
    def bos_id(self) -> int | None:
        """The first id before a text."""
        return self.front[0] if self.front else None


def tokenizer_of_folder(folder: Path, rows: int) -> ModelTokenizer | None:
    """The tokenizer of a checkpoint folder whose embedding has `rows` rows; None if the folder has none.

    BadCheckpoint if there is one that cannot be used.
    """
    _check_added_ids(folder, rows)
    known = _as_transformers_reads(folder)
    if known is None:
        return None
    path = folder / TOKENIZER
    inner = _usable(path, lambda: open_tokenizer(path)) if path.is_file() else known.backend_tokenizer
    inner.no_truncation()
    inner.no_padding()
    added = {id_: token.__getstate__() for id_, token in known.added_tokens_decoder.items()}
    front = _usable(folder, lambda: front_of(inner))
    return normalised(inner, added, front, known.eos_token, rows, str(folder))


def normalised(
    inner: tokenizers.Tokenizer,
    added: Mapping[int, Mapping[str, Any]],
    front: Sequence[int],
    eos_token: str | None,
    rows: int,
    where: str,
) -> ModelTokenizer:
    """The tokenizer with more added tokens, and with `front` before a text and nothing else around it.

    Args:
        added: id -> an entry of `added_tokens` in tokenizer.json.
        front: ids.
        rows: of the embedding; added tokens beyond it are dropped, as the model has never seen them.
        where: the checkpoint, for errors.
    """
    data = json.loads(inner.to_str())
    _respell(data["model"]["vocab"], added)
    entries = {entry["id"]: entry for entry in data["added_tokens"]}
    entries |= {id_: {**entry, "id": id_} for id_, entry in added.items()}
    vocabulary = data["model"]["vocab"]
    ids = range(len(vocabulary)) if isinstance(vocabulary, list) else vocabulary.values()
    if beyond := sum(id_ >= rows for id_ in ids):
        raise BadCheckpoint(
            f"the tokenizer of {where} has {len(ids)} ids, {beyond} of them beyond the embedding",
            f"ids from 0 to {rows - 1}, a row of the embedding for each",
            "take the tokenizer that belongs to the model",
        )
    spelled = {id_: str(inner.id_to_token(id_)) for id_ in front} | {id_: e["content"] for id_, e in entries.items()}
    data |= {
        "truncation": None,
        "padding": None,
        "added_tokens": [entries[id_] for id_ in sorted(entries) if id_ < rows],
        "post_processor": _frame({id_: spelled[id_] for id_ in front}),
    }
    made = _usable(where, lambda: tokenizers.Tokenizer.from_str(json.dumps(data)))
    _check(made, data["added_tokens"], where)
    eos_id = made.token_to_id(eos_token) if eos_token else None
    dropped = tuple(str(entries[id_]["content"]) for id_ in sorted(entries) if id_ >= rows)
    return ModelTokenizer(made, tuple(front_of(made)), eos_id, dropped)


def _respell(vocabulary: Any, added: Mapping[int, Mapping[str, Any]]) -> None:
    """Give added tokens that the model knows under another spelling their own."""
    if isinstance(vocabulary, dict):
        for spelling, id_ in [(token, id_) for token, id_ in vocabulary.items() if id_ in added]:
            if spelling != added[id_]["content"]:
                vocabulary[added[id_]["content"]] = vocabulary.pop(spelling)


def _frame(front: Mapping[int, str]) -> dict[str, Any] | None:
    """The `post_processor` that puts these tokens before a text."""
    if not front:
        return None
    before = [{"SpecialToken": {"id": token, "type_id": 0}} for token in front.values()]
    text, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokens = {token: {"id": token, "ids": [id_], "tokens": [token]} for id_, token in front.items()}
    single = [*before, text]
    return {"type": "TemplateProcessing", "single": single, "pair": [*single, second], "special_tokens": tokens}


def _check(made: tokenizers.Tokenizer, added: Sequence[Mapping[str, Any]], where: str) -> None:
    """Every added token has the id that the files name, and ids can be made text token by token."""
    for entry in added:
        if made.token_to_id(entry["content"]) != entry["id"]:
            raise BadCheckpoint(
                f"the tokenizer of {where} gives {short(entry['content'])} the id"
                f" {made.token_to_id(entry['content'])}, and its files say {entry['id']}",
                "ids without a gap",
                f"correct {ADDED} or {CONFIG}",
            )
    try:
        TextDecoder(json.loads(made.decoder.__getstate__()) if made.decoder else None)
    except BadBundle as error:
        raise BadCheckpoint(f"{where}: {error.found}", error.expected, error.remedy) from None


def _as_transformers_reads(folder: Path) -> Any:
    """The tokenizer with every token that it has; None if the folder has none."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    def read(kind: Any) -> Any:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)

    if not any((folder / name).is_file() for name in (TOKENIZER, "tokenizer.model", "vocab.json")):
        return None
    try:
        known = _usable(folder, lambda: read(AutoTokenizer))
    except BadCheckpoint:  # code of its own, or a class that transformers has not
        if not (folder / TOKENIZER).is_file():
            raise
        known = None
    return known if hasattr(known, "backend_tokenizer") else _usable(folder, lambda: read(PreTrainedTokenizerFast))


def _check_added_ids(folder: Path, rows: int) -> None:
    """Refuse ids of which a list would fill the memory."""
    named: list[Any] = []
    if (folder / CONFIG).is_file():
        decoder = read_object(folder / CONFIG).get("added_tokens_decoder") or {}
        if not isinstance(decoder, dict):
            raise BadCheckpoint(f"{folder / CONFIG} has added_tokens_decoder {short(decoder)}", "tokens by id")
        named += [int(id_) if id_.isdecimal() else id_ for id_ in decoder]
    if (folder / ADDED).is_file():
        named += read_object(folder / ADDED).values()
    for id_ in named:
        if type(id_) is not int or not 0 <= id_ < rows + MOST_ADDED:
            raise BadCheckpoint(f"{folder} has an added token of id {short(id_)}", f"ids below {rows}, the embedding's")


def _usable(where: Path | str, make: Callable[[], T]) -> T:
    """What `make` gives; BadCheckpoint whatever it raises."""
    try:
        return make()
    except (KeyboardInterrupt, SystemExit, BadCheckpoint):
        raise
    except BaseException as error:  # the libraries raise whatever a damaged file leads them to, panics too
        raise BadCheckpoint(
            f"the tokenizer of {where} cannot be read ({first_line(error)})", "a tokenizer.json that transformers reads"
        ) from None
