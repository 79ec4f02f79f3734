"""A folder as the hub lays it out: config.json, model*.safetensors (sharded or not), tokenizer files."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from edgesink.errors import BadCheckpoint, first_line
from edgesink.export.checkpoint.accounting import account_for, check_finite
from edgesink.export.checkpoint.config import (
    HARMLESS,
    MEANINGS,
    NEUTRAL,
    check_quantization,
    end_ids,
    read_object,
    sink_token,
    transformers_defaults,
)
from edgesink.export.checkpoint.multimodal import TEXT_KINDS, text_config, text_tensors
from edgesink.export.checkpoint.second_reading import check_sizes
from edgesink.export.checkpoint.shards import open_shard, read_headers, with_prefix
from edgesink.export.checkpoint.unsupported import refuse_family
from edgesink.export.families import HUB_FAMILIES
from edgesink.export.families.fields import Fields
from edgesink.export.families.weights_of import Source, weight_names
from edgesink.export.quantize import Blocks
from edgesink.manifest import CHAT_TEMPLATE, TOKENIZER


class SafetensorsCheckpoint:
    """See `Checkpoint`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        values = read_object(path / "config.json")
        kind = values.get("model_type")
        self._is_multimodal = type(kind) is str and kind in TEXT_KINDS
        if self._is_multimodal:
            check_quantization(Fields(values, str(path / "config.json")))
            values = text_config(values, str(path / "config.json"))
            kind = values["model_type"]
        if type(kind) is not str or kind not in HUB_FAMILIES:
            raise refuse_family(str(path), "model_type", kind, [*HUB_FAMILIES, *TEXT_KINDS])
        self._family = HUB_FAMILIES[kind]
        defaults = transformers_defaults(kind)
        config = Fields(values, str(path / "config.json"), defaults)
        check_quantization(config)
        self.model = self._family.read(config, _name(config.get("_name_or_path"), path))
        self.eos_ids = self._end_ids(config)
        self.sink_token_id = sink_token(config, self.model.vocab)
        config.refuse_unread(NEUTRAL, HARMLESS, MEANINGS)
        check_sizes(defaults | values, self.model, config.where)
        self._open: dict[str, Any] = {}
        tensors = text_tensors(read_headers(path)) if self._is_multimodal else read_headers(path)
        self._tensors = with_prefix(tensors, self._source("embedding").key)
        self.model = dataclasses.replace(self.model, tied=self._is_tied())
        self._account()
        self.bos_id = _bos_of_tokenizer(path)

    @property
    def kinds(self) -> str | None:
        """None: the weights are floats."""
        return None

    def tensor(self, weight: str) -> np.ndarray:
        """See `Checkpoint.tensor`."""
        source = self._source(weight)
        array: np.ndarray = self._stored(source.key).float().numpy()
        check_finite(array, source.key, str(self.path))
        return source.of(array)

    def blocks(self, weight: str) -> Blocks | None:
        """None: the weights are floats."""
        return None

    def write_tokenizer(self, path: Path) -> None:
        """See `Checkpoint.write_tokenizer`."""
        source = self.path / TOKENIZER
        if not source.is_file():
            raise BadCheckpoint(f"no {TOKENIZER} in {self.path}", "a fast tokenizer", "download it again")
        shutil.copyfile(source, path)

    def template(self) -> str | None:
        """See `Checkpoint.template`."""
        if (self.path / CHAT_TEMPLATE).is_file():
            return (self.path / CHAT_TEMPLATE).read_text(encoding="utf-8")
        config = self.path / "tokenizer_config.json"
        if not config.is_file():
            return None
        template = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
        if isinstance(template, list):  # several by name
            template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
        return template

    def _end_ids(self, config: Fields) -> tuple[int, ...]:
        path, vocab = self.path / "generation_config.json", self.model.vocab
        found = end_ids(f"{config.where} has eos_token_id", config.get("eos_token_id"), vocab)
        if path.is_file():
            found |= end_ids(f"{path} has eos_token_id", read_object(path).get("eos_token_id"), vocab)
        return tuple(sorted(found))

    def _is_tied(self) -> bool:
        """The head is the embedding; a head in the file that differs is used, as transformers does."""
        head, embedding = self._source("head").key, self._source("embedding").key
        if head not in self._tensors and not self.model.tied:
            raise BadCheckpoint(f"{self.path} has no tensor {head!r}", "one, as tie_word_embeddings is false")
        if head not in self._tensors or embedding not in self._tensors or not self.model.tied:
            return self.model.tied
        one, other = self._stored(head), self._stored(embedding)
        return one.shape == other.shape and bool((one == other).all())

    def _account(self) -> None:
        sources = [self._source(weight) for weight in weight_names(self.model)]
        derived = {key for key in self._tensors if self._is_derived(key)}
        if self.model.tied:
            derived.add(self._source("head").key)
        account_for({key: tensor.shape for key, tensor in self._tensors.items()}, sources, derived, str(self.path))

    def _is_derived(self, key: str) -> bool:
        """The tensor says what the config says already, to the few digits that it may be held in."""
        expected = self._family.derived(key, self.model)
        if expected is None or self._tensors[key].shape != expected.shape:
            return False
        return bool(np.allclose(self._stored(key).double().numpy(), expected, rtol=1e-2, atol=1e-7))

    def _source(self, weight: str) -> Source:
        return self._family.source(weight, self.model)

    def _stored(self, key: str) -> Any:
        """The tensor as it is held, PyTorch's; one shard at a time stays mapped."""
        tensor = self._tensors[key]
        if tensor.file not in self._open:
            self._open.clear()
            self._open[tensor.file] = open_shard(self.path / tensor.file)
        return self._open[tensor.file].get_tensor(tensor.key)


def _name(said: Any, path: Path) -> str:
    """The model's name for people: where it came from, else its folder's."""
    return Path(said if type(said) is str and said else path.resolve().name).name


def _bos_of_tokenizer(path: Path) -> int | None:
    """The id that the tokenizer puts before a text, if it does."""
    from tokenizers import Tokenizer

    if not (path / TOKENIZER).is_file():
        return None
    try:
        ids: list[int] = Tokenizer.from_file(str(path / TOKENIZER)).encode("", add_special_tokens=True).ids
    except Exception as error:  # the library raises nothing narrower
        raise BadCheckpoint(f"{path / TOKENIZER} cannot be read ({first_line(error)})", "a fast tokenizer") from None
    return ids[0] if ids else None
