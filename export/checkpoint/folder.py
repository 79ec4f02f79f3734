"""A folder as the hub lays it out: config.json, model*.safetensors (sharded or not), tokenizer files."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgesink.errors import BadCheckpoint
from edgesink.export.blocks import Blocks
from edgesink.export.checkpoint.accounting import account_for, check_finite
from edgesink.export.checkpoint.chat_files import folder_special_tokens, folder_templates
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
from edgesink.export.checkpoint.friendly_name import folder_name
from edgesink.export.checkpoint.known_sampling import known_sampling
from edgesink.export.checkpoint.model_tokenizer import ModelTokenizer, tokenizer_of_folder
from edgesink.export.checkpoint.multimodal import TEXT_KINDS, text_config, text_tensors
from edgesink.export.checkpoint.prefixes import with_prefix
from edgesink.export.checkpoint.sampling import folder_sampling
from edgesink.export.checkpoint.second_reading import check_sizes
from edgesink.export.checkpoint.shards import check_floats, open_shard, read_headers
from edgesink.export.checkpoint.unsupported import refuse_family
from edgesink.export.families import HUB_FAMILIES
from edgesink.export.families.fields import Fields
from edgesink.export.families.weights_of import Source, weight_names
from edgesink.manifest import TOKENIZER
from edgesink.sampling_defaults import SamplingDefaults


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
        self.model = self._family.read(config, folder_name(config.get("_name_or_path"), path))
        self._config_ends = self._end_ids(config)
        self.sampling: SamplingDefaults | None = folder_sampling(path, known_sampling(self.model.name))
        self.sink_token_id = sink_token(config, self.model.vocab)
        config.refuse_unread(NEUTRAL, HARMLESS, MEANINGS)
        check_sizes(defaults | values, self.model, config.where)
        self._open: dict[str, Any] = {}
        tensors = text_tensors(read_headers(path)) if self._is_multimodal else read_headers(path)
        self._tensors = with_prefix(tensors, self._source("embedding").key, self._source("head").key)
        check_floats(self._tensors, path, lambda key: self._family.derived(key, self.model) is not None)
        self.model = dataclasses.replace(self.model, tied=self._is_tied())
        self._account()

    @cached_property
    def tokenizer(self) -> ModelTokenizer | None:
        """Its tokenizer; None if it has none. BadCheckpoint if it cannot be used."""
        return tokenizer_of_folder(self.path, self.model.vocab)

    @property
    def bos_id(self) -> int | None:
        """See `Checkpoint.bos_id`."""
        return self.tokenizer.bos_id if self.tokenizer else None

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Those of its configs, and the end token of its tokenizer."""
        own = self.tokenizer.eos_id if self.tokenizer else None
        return tuple(sorted(self._config_ends | ({own} if own is not None else set())))

    @property
    def dropped_tokens(self) -> tuple[str, ...]:
        """See `Checkpoint.dropped_tokens`."""
        return self.tokenizer.dropped if self.tokenizer else ()

    def tensor(self, weight: str) -> np.ndarray:
        """See `Checkpoint.tensor`."""
        source = self._source(weight)
        array: np.ndarray = self._stored(source.key).float().numpy()
        check_finite(array, source.key, str(self.path))
        return source.of(array)

    def kind(self, weight: str) -> str | None:
        """None: the weights are floats."""
        return None

    def tensor_name(self, weight: str) -> str:
        """See `Checkpoint.tensor_name`."""
        return self._source(weight).key

    def blocks(self, weight: str) -> Blocks | None:
        """None: the weights are floats."""
        return None

    def write_tokenizer(self, path: Path) -> None:
        """See `Checkpoint.write_tokenizer`."""
        if self.tokenizer is None:
            raise BadCheckpoint(f"no {TOKENIZER} in {self.path}", "a tokenizer", "put the model's own there")
        self.tokenizer.inner.save(str(path), pretty=False)

    def templates(self) -> dict[str, str]:
        """See `Checkpoint.templates`."""
        return folder_templates(self.path)

    def special_tokens(self) -> dict[str, str]:
        """See `Checkpoint.special_tokens`."""
        return folder_special_tokens(self.path)

    def _end_ids(self, config: Fields) -> set[int]:
        path, vocab = self.path / "generation_config.json", self.model.vocab
        found = end_ids(f"{config.where} has eos_token_id", config.get("eos_token_id"), vocab)
        if path.is_file():
            found |= end_ids(f"{path} has eos_token_id", read_object(path).get("eos_token_id"), vocab)
        return found

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
