"""A GGUF, as llama.cpp writes them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgesink.errors import BadCheckpoint
from edgesink.export.blocks import Blocks
from edgesink.export.checkpoint.accounting import account_for, check_finite
from edgesink.export.checkpoint.chat_files import gguf_special_tokens, gguf_templates
from edgesink.export.checkpoint.friendly_name import gguf_name
from edgesink.export.checkpoint.gguf_parts import read_gguf
from edgesink.export.checkpoint.gguf_tokenizer import (
    CONTROL,
    TEXT_TAGS,
    TURN_ENDS,
    kinds_of,
    token_id,
    tokenizer_of_gguf,
)
from edgesink.export.checkpoint.known_sampling import known_sampling
from edgesink.export.checkpoint.model_tokenizer import ModelTokenizer
from edgesink.export.checkpoint.sampling import gguf_sampling
from edgesink.export.checkpoint.unsupported import FILE_TYPES, refuse_family
from edgesink.export.families import GGUF_FAMILIES
from edgesink.export.families.fields import Fields
from edgesink.export.families.weights_of import Shapes, Source, weight_names
from edgesink.export.gguf_blocks import from_gguf, is_exact
from edgesink.export.halves import HALVES, Halves, halves_of_gguf
from edgesink.export.quantize import quantize
from edgesink.sampling_defaults import SamplingDefaults

FLOAT_KINDS = frozenset({"F32", "F16", "BF16"})

NEUTRAL: Mapping[str, Any] = {
    "attention.causal": True,
    "attention.sliding_window": 0,
    "embedding_scale": 1.0,
    "expert_count": 0,
    "expert_used_count": 0,
    "logit_scale": 1.0,
    "nextn_predict_layers": 0,
    "residual_scale": 1.0,
    "rope.scale_linear": 1.0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.factor": 1.0,
    "tensor_data_layout": "Meta AI original pth",  # rows of q and k interleaved, as in every file of this family
    "use_parallel_residual": False,
}
"""Fields of an architecture with the value that switches them off."""

MEANINGS: Mapping[str, str] = {
    "expert_count": "a mixture of experts",
    "expert_used_count": "a mixture of experts",
    "rope.scaling.factor": "scaled RoPE frequencies; export the safetensors folder of the model instead",
    "rope.scale_linear": "scaled RoPE frequencies; export the safetensors folder of the model instead",
    "attention.sliding_window": "windows of layers; export the safetensors folder of the model instead",
}
"""What a refused field means; after a semicolon the way out."""


class GgufCheckpoint:
    """See `Checkpoint`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        file = read_gguf(path)
        self._first, self.fields, self._tensors = file.first, file.fields, file.tensors
        header = Fields(self.fields, str(path))
        _check_whole_model(header)
        kind = header.text("general.architecture")
        if kind not in GGUF_FAMILIES:
            raise refuse_family(str(path), "general.architecture", kind, GGUF_FAMILIES)
        self._family = GGUF_FAMILIES[kind]
        fields = Fields(self.fields, str(path), prefix=f"{kind}.")
        self._check_kinds()
        self._kinds = {key: t.tensor_type.name for key, t in self._tensors.items() if len(t.shape) == 2}
        self._is_quantised = not FLOAT_KINDS.issuperset(self._kinds.values())
        tensors = GgufTensors(self._tensors, str(path))
        self.model = self._family.read(fields, gguf_name(self.fields, path), tensors)
        fields.refuse_unread(NEUTRAL, meanings=MEANINGS)
        sources = [self._source(weight) for weight in weight_names(self.model)]
        account_for(tensors.shapes, sources, tensors.used, str(path))
        self.eos_ids = self._end_ids(header)
        known = known_sampling(self.model.name)
        self.sampling: SamplingDefaults | None = gguf_sampling(self.fields, str(path), known)
        self.sink_token_id: int | None = None  # the format has no field for one
        self._token_id(header, "bos")

    @cached_property
    def tokenizer(self) -> ModelTokenizer:
        """Its tokenizer; BadCheckpoint if it cannot be used."""
        return tokenizer_of_gguf(self._first, self.fields, self.model.vocab)

    @property
    def bos_id(self) -> int | None:
        """See `Checkpoint.bos_id`."""
        return self.tokenizer.bos_id

    @property
    def dropped_tokens(self) -> tuple[str, ...]:
        """None: its tokens are those of its embedding."""
        return ()

    def tensor(self, weight: str) -> np.ndarray:
        """See `Checkpoint.tensor`."""
        source = self._source(weight)
        return source.of(_values(self._tensors[source.key], source.shape, str(self.path)))

    def kind(self, weight: str) -> str | None:
        """See `Checkpoint.kind`: a GGUF type, that of a float matrix too in a file where others are quantised."""
        key = self._source(weight).key
        return self._kinds.get(key) if self._is_quantised else None

    def tensor_name(self, weight: str) -> str:
        """See `Checkpoint.tensor_name`."""
        return self._source(weight).key

    def blocks(self, weight: str) -> Blocks | Halves | None:
        """See `Checkpoint.blocks`; types that are not carried over are rounded to 8 bits."""
        source, kind = self._source(weight), self.kind(weight)
        if kind is None:
            return None
        if not is_exact(kind):
            return quantize(self.tensor(weight), 8)
        found = self._carried(source, kind)
        return found if source.rows is None else found.rows(source.rows)

    def write_tokenizer(self, path: Path) -> None:
        """See `Checkpoint.write_tokenizer`."""
        self.tokenizer.inner.save(str(path), pretty=False)

    def templates(self) -> dict[str, str]:
        """See `Checkpoint.templates`."""
        return gguf_templates(self.fields, str(self.path))

    def special_tokens(self) -> dict[str, str]:
        """See `Checkpoint.special_tokens`."""
        return gguf_special_tokens(self.fields)

    def _carried(self, source: Source, kind: str) -> Blocks | Halves:
        """A tensor of a type that is carried over, checked."""
        data = np.asarray(self._tensors[source.key].data)
        if kind in HALVES:
            halves = halves_of_gguf(data, kind)
            check_finite(halves.dequantized(), source.key, str(self.path))
            return halves
        blocks = from_gguf(data, kind, source.shape[1])
        check_finite(blocks.scale, source.key, str(self.path))
        if blocks.offset is not None:
            check_finite(blocks.offset, source.key, str(self.path))
        return blocks

    def _source(self, weight: str) -> Source:
        return self._family.source(weight, self.model)

    def _check_kinds(self) -> None:
        unreadable = {kind for kind in {t.tensor_type for t in self._tensors.values()} if not _readable(kind)}
        for key, tensor in self._tensors.items():
            if tensor.tensor_type in unreadable:
                raise BadCheckpoint(
                    f"tensor {key!r} of {self.path} is of type {tensor.tensor_type.name}",
                    "a type that the gguf package can dequantise",
                    "choose another quantisation of the model",
                )

    def _end_ids(self, header: Fields) -> tuple[int, ...]:
        """The file's own end ids, and tokens that are known by their text to end a turn."""
        tokens = header.get("tokenizer.ggml.tokens") or []
        is_list = isinstance(tokens, list) and all(type(token) is str for token in tokens)
        if not is_list or len(tokens) > self.model.vocab:
            raise header.error("tokenizer.ggml.tokens", f"a list of {self.model.vocab} tokens at most")
        kinds = kinds_of(self.fields)
        if not isinstance(kinds, list) or len(kinds) != len(tokens):
            raise header.error("tokenizer.ggml.token_type", "one for each of tokenizer.ggml.tokens")
        known = {
            id_ for id_, text in enumerate(tokens) if text in TURN_ENDS or (text in TEXT_TAGS and kinds[id_] == CONTROL)
        }
        named = {self._token_id(header, name) for name in ("eos", "eot", "eom")}
        return tuple(sorted(known.union(id_ for id_ in named if id_ is not None)))

    def _token_id(self, header: Fields, name: str) -> int | None:
        field, id_ = f"tokenizer.ggml.{name}_token_id", token_id(self.fields, name)
        if id_ is not None and (type(id_) is not int or not 0 <= id_ < self.model.vocab):
            raise header.error(field, f"an id from 0 to {self.model.vocab - 1}, the vocabulary's")
        return id_


class GgufTensors:
    """See `families.weights_of.Tensors`."""

    def __init__(self, tensors: Mapping[str, Any], where: str) -> None:
        self.shapes: Shapes = {key: tuple(int(n) for n in reversed(tensor.shape)) for key, tensor in tensors.items()}
        self.used: set[str] = set()
        self._tensors, self._where = tensors, where

    def vector(self, key: str, length: int) -> np.ndarray | None:
        """See `Tensors.vector`."""
        if key not in self.shapes:
            return None
        if self.shapes[key] != (length,):
            raise BadCheckpoint(f"tensor {key!r} of {self._where} has shape {self.shapes[key]}", f"{(length,)}")
        self.used.add(key)
        return _values(self._tensors[key], (length,), self._where).astype(np.float64)


def _values(tensor: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """The tensor as float32; BadCheckpoint if it holds what is not a finite number."""
    from gguf.quants import dequantize

    with np.errstate(all="ignore"):  # infinite scales are found below
        array: np.ndarray = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False).reshape(shape)
    check_finite(array, tensor.name, where)
    return array


def _check_whole_model(header: Fields) -> None:
    """Refuse a file that is something else about a model."""
    kind = header.text("general.type", "model")
    if kind in FILE_TYPES:
        what, remedy = FILE_TYPES[kind]
        raise BadCheckpoint(f"{header.where} is {what}", "a whole model", remedy)


def _readable(kind: Any) -> bool:
    """The gguf package has a way from this type to floats."""
    from gguf import GGML_QUANT_SIZES
    from gguf.quants import dequantize

    if kind.name in FLOAT_KINDS:
        return True
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
