"""Reads a checkpoint: its architecture as a `ModelSpec`, its weights one at a time, its tokenizer's files.

Owns the meeting of checkpoint spelling and ours: key names and config fields of safetensors folders and GGUF files
stop here, and so do the differences between families. A weight is read when it is asked for and not kept, so memory
follows the largest tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgesink.errors import BadCheckpoint
from edgesink.export.quantize import Blocks, from_gguf, quantize
from edgesink.spec import Llama3Scaling, ModelSpec, RopeSpec

LAYER_WEIGHTS = ("attention_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down")
"""Weights of `layers.{i}.`; beside them stand `embedding`, `norm` and `head`."""

FAMILIES = ("llama", "mistral")
"""Architectures that are the Llama decoder: RMSNorm, grouped queries, whole-head RoPE, gated SiLU, no biases."""

HF_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
    "attention_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}

GGUF_NAMES = {
    "embedding": "token_embd.weight",
    "norm": "output_norm.weight",
    "head": "output.weight",
    "attention_norm": "attn_norm.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "o": "attn_output.weight",
    "mlp_norm": "ffn_norm.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
}


class Checkpoint(Protocol):
    """A model on disk."""

    path: Path
    model: ModelSpec
    bos_id: int | None  # put before plain text
    eos_ids: tuple[int, ...]

    def tensor(self, weight: str) -> np.ndarray:
        """The weight as float32, [out, in] or [n]; BadCheckpoint if it is missing or has another shape."""

    def blocks(self, weight: str) -> Blocks | None:
        """The weight as the checkpoint itself quantised it, or nearly; None if it is held in floats."""


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a `.gguf` file or a folder of safetensors; BadCheckpoint says what is wrong with it."""
    if path.is_file() and path.suffix == ".gguf":
        return GgufCheckpoint(path)
    if path.is_dir() and (path / "config.json").is_file():
        return SafetensorsCheckpoint(path)
    raise BadCheckpoint(f"{path} is no checkpoint", "a folder with config.json and safetensors, or a .gguf file")


def weight_shape(model: ModelSpec, weight: str) -> tuple[int, ...]:
    """The shape that the architecture gives a weight, [out, in]."""
    hidden, inner = model.hidden, model.intermediate
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (model.vocab, hidden),
        "head": (model.vocab, hidden),
        "norm": (hidden,),
        "attention_norm": (hidden,),
        "mlp_norm": (hidden,),
        "q": (queries, hidden),
        "k": (keys, hidden),
        "v": (keys, hidden),
        "o": (hidden, queries),
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "down": (hidden, inner),
    }
    return shapes[weight.rpartition(".")[2]]


def weight_names(model: ModelSpec) -> list[str]:
    """Every weight of the model, in the order in which the decoder meets them."""
    layers = [f"layers.{layer}.{name}" for layer in range(model.layers) for name in LAYER_WEIGHTS]
    return ["embedding", *layers, "norm", *([] if model.tied else ["head"])]


def hf_name(weight: str) -> str:
    """The weight as transformers spells it."""
    layer, _, name = weight.rpartition(".")
    return f"model.{layer}.{HF_NAMES[name]}" if layer else HF_NAMES[name]


def _check_family(architecture: str, path: Path) -> None:
    if architecture not in FAMILIES:
        raise BadCheckpoint(
            f"{path} is a model of type {architecture!r}", f"one of {', '.join(FAMILIES)}", "choose another model"
        )


def _check_shape(tensor_shape: tuple[int, ...], model: ModelSpec, weight: str, path: Path) -> None:
    expected = weight_shape(model, weight)
    if tuple(tensor_shape) != expected:
        raise BadCheckpoint(f"weight {weight} in {path} has shape {tuple(tensor_shape)}", str(expected))


class SafetensorsCheckpoint:
    """A folder as the hub lays it out: config.json, model*.safetensors (sharded or not), tokenizer files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        config = _read_json(path / "config.json")
        self.model = _spec_of_config(config, path)
        generation = _read_json(path / "generation_config.json") if (path / "generation_config.json").is_file() else {}
        self.bos_id = _bos_of_tokenizer(path)
        self.eos_ids = _ids(generation.get("eos_token_id"), config.get("eos_token_id"))
        self._shard_of = _shards(path)
        self._open: dict[str, Any] = {}

    def tensor(self, weight: str) -> np.ndarray:
        """See `Checkpoint.tensor`."""
        key = hf_name(weight)
        if key not in self._shard_of:
            raise BadCheckpoint(f"{self.path} has no tensor {key!r}", "", "download the checkpoint again")
        tensor = self._shard(self._shard_of[key]).get_tensor(key)
        _check_shape(tensor.shape, self.model, weight, self.path)
        array: np.ndarray = tensor.float().numpy()
        return array

    def blocks(self, weight: str) -> Blocks | None:
        """None: the weights are floats."""
        return None

    def _shard(self, name: str) -> Any:
        """The open shard; one at a time stays mapped."""
        from safetensors import SafetensorError, safe_open

        if name not in self._open:
            self._open.clear()
            try:
                self._open[name] = safe_open(self.path / name, framework="pt")  # numpy has no bfloat16
            except (SafetensorError, OSError) as error:
                raise BadCheckpoint(f"{self.path / name} cannot be read ({error})", "", "download it again") from None
        return self._open[name]


class GgufCheckpoint:
    """One `.gguf` file of a Llama-architecture model."""

    def __init__(self, path: Path) -> None:
        self.path = path
        from gguf import GGUFReader

        try:
            reader = GGUFReader(path)
        except (ValueError, OSError, IndexError, KeyError) as error:
            raise BadCheckpoint(f"{path} is no readable GGUF file ({error})", "", "download it again") from None
        self.fields: Mapping[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.model = self._spec()
        self.bos_id = self.fields.get("tokenizer.ggml.bos_token_id") if self._adds_bos() else None
        self.eos_ids = self._end_ids()

    def tensor(self, weight: str) -> np.ndarray:
        """See `Checkpoint.tensor`."""
        from gguf.quants import dequantize

        tensor = self._tensor(weight)
        array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        return array.reshape(weight_shape(self.model, weight))[self._row_order(weight)]

    def blocks(self, weight: str) -> Blocks | None:
        """See `Checkpoint.blocks`; Q4_0, Q4_1, Q4_K and Q8_0 map, others are rounded to 8 bits, finer than they are."""
        tensor = self._tensor(weight)
        kind = tensor.tensor_type.name
        if len(tensor.shape) != 2 or kind in FLOAT_KINDS:
            return None
        blocks = from_gguf(np.asarray(tensor.data), kind, *weight_shape(self.model, weight))
        if blocks is None:
            return quantize(self.tensor(weight), 8)
        return blocks.rows(self._row_order(weight)) if self._permuted(weight) else blocks

    @property
    def kinds(self) -> str:
        """The quantisations of the file's matrices, for people: "Q4_1, Q8_0"."""
        return ", ".join(sorted({t.tensor_type.name for t in self._tensors.values() if len(t.shape) == 2}))

    def _tensor(self, weight: str) -> Any:
        layer, _, name = weight.rpartition(".")
        key = f"blk.{layer.removeprefix('layers.')}.{GGUF_NAMES[name]}" if layer else GGUF_NAMES[name]
        if key not in self._tensors:
            raise BadCheckpoint(f"{self.path} has no tensor {key!r}", "", "download the file again")
        tensor = self._tensors[key]
        _check_shape(tuple(int(n) for n in reversed(tensor.shape)), self.model, weight, self.path)
        return tensor

    def _permuted(self, weight: str) -> bool:
        """llama.cpp stores the rows of q and k with the halves of each rotary pair interleaved."""
        return weight.rpartition(".")[2] in ("q", "k")

    def _row_order(self, weight: str) -> Any:
        if not self._permuted(weight):
            return slice(None)
        heads = self.model.heads if weight.endswith("q") else self.model.kv_heads
        half = self.model.head_dim // 2
        return np.arange(heads * half * 2).reshape(heads, half, 2).swapaxes(1, 2).reshape(-1)

    def _spec(self) -> ModelSpec:
        architecture = self._field("general.architecture")
        _check_family(architecture, self.path)
        if "rope_freqs.weight" in self._tensors:
            raise BadCheckpoint(
                f"{self.path} carries scaled RoPE frequencies", "plain RoPE in a GGUF", "export its safetensors folder"
            )
        of = f"{architecture}."
        heads = self._field(of + "attention.head_count")
        hidden = self._field(of + "embedding_length")
        return ModelSpec(
            name=str(self.fields.get("general.name", self.path.stem)),
            architecture=architecture,
            layers=self._field(of + "block_count"),
            hidden=hidden,
            heads=heads,
            kv_heads=self.fields.get(of + "attention.head_count_kv", heads),
            head_dim=self.fields.get(of + "attention.key_length", hidden // heads),
            intermediate=self._field(of + "feed_forward_length"),
            vocab=int(self._tensors["token_embd.weight"].shape[1]),
            norm_eps=round(self._field(of + "attention.layer_norm_rms_epsilon"), 12),
            rope=RopeSpec(float(self.fields.get(of + "rope.freq_base", 10000.0))),
            tied="output.weight" not in self._tensors,
            context=self._field(of + "context_length"),
        )

    def _field(self, name: str) -> Any:
        if name not in self.fields:
            raise BadCheckpoint(f"{self.path} lacks the field {name}", "", "download the file again")
        return self.fields[name]

    def _adds_bos(self) -> bool:
        return bool(self.fields.get("tokenizer.ggml.add_bos_token", self.fields.get("tokenizer.ggml.model") == "llama"))

    def _end_ids(self) -> tuple[int, ...]:
        """The file's own end ids, and control tokens that are known to end a turn by their text."""
        tokens = self.fields.get("tokenizer.ggml.tokens", [])
        kinds = self.fields.get("tokenizer.ggml.token_type", [])
        known = [id_ for id_, text in enumerate(tokens) if text in TURN_ENDS and kinds[id_] == _CONTROL]
        named = [self.fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
        return _ids(named, known)


TURN_ENDS = frozenset({"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "</s>"})
FLOAT_KINDS = frozenset({"F32", "F16", "BF16", "F64"})
_CONTROL = 3  # gguf.TokenType.CONTROL


def _spec_of_config(config: Mapping[str, Any], path: Path) -> ModelSpec:
    """The spec of a transformers config; optimum's table knows how each family spells layer and head counts."""
    from optimum.utils import NormalizedConfigManager
    from transformers import AutoConfig

    architecture = config.get("model_type", "")
    _check_family(architecture, path)
    loaded = AutoConfig.from_pretrained(path)
    normalized = NormalizedConfigManager.get_normalized_config_class(architecture)(loaded)
    heads, hidden = normalized.num_attention_heads, normalized.hidden_size
    head_dim = getattr(loaded, "head_dim", None) or hidden // heads
    _check_plain(config, path)
    return ModelSpec(
        name=Path(config.get("_name_or_path") or path.resolve().name).name,
        architecture=architecture,
        layers=normalized.num_layers,
        hidden=hidden,
        heads=heads,
        kv_heads=getattr(loaded, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        intermediate=loaded.intermediate_size,
        vocab=normalized.vocab_size,
        norm_eps=loaded.rms_norm_eps,
        rope=_rope_of_config(loaded, path),
        tied=bool(loaded.tie_word_embeddings),
        context=loaded.max_position_embeddings,
    )


def _check_plain(config: Mapping[str, Any], path: Path) -> None:
    """Refuse what a config of a known family may ask for and the decoder does not have."""
    for field, plain in {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}.items():
        if config.get(field, plain) != plain:
            raise BadCheckpoint(f"{path} has {field} = {config[field]!r}", f"{plain!r}", "choose another model")


def _rope_of_config(loaded: Any, path: Path) -> RopeSpec:
    parameters = dict(loaded.rope_parameters)
    kind = parameters.get("rope_type", "default")
    theta = float(parameters["rope_theta"])
    if kind == "default":
        return RopeSpec(theta)
    if kind == "llama3":
        scaling = Llama3Scaling(
            factor=float(parameters["factor"]),
            low_freq_factor=float(parameters["low_freq_factor"]),
            high_freq_factor=float(parameters["high_freq_factor"]),
            original_context=int(parameters["original_max_position_embeddings"]),
        )
        return RopeSpec(theta, scaling)
    raise BadCheckpoint(f"{path} uses RoPE of type {kind!r}", "default or llama3", "choose another model")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{path} cannot be read ({error})", "", "download the checkpoint again") from None
    if not isinstance(data, dict):
        raise BadCheckpoint(f"{path} is not a JSON object", "", "download the checkpoint again")
    return data


def _shards(path: Path) -> dict[str, str]:
    """Tensor name -> file name, from the index or the one file."""
    from safetensors import SafetensorError, safe_open

    index = path / "model.safetensors.index.json"
    if index.is_file():
        shards: dict[str, str] = _read_json(index)["weight_map"]
    elif (path / "model.safetensors").is_file():
        try:
            with safe_open(path / "model.safetensors", framework="pt") as file:
                shards = dict.fromkeys(file.keys(), "model.safetensors")
        except (SafetensorError, OSError) as error:
            raise BadCheckpoint(f"{path / 'model.safetensors'} cannot be read ({error})") from None
    else:
        raise BadCheckpoint(f"no model.safetensors in {path}", "safetensors weights, in one file or sharded")
    for name in sorted(set(shards.values())):
        if not (path / name).is_file():
            raise BadCheckpoint(f"{path / name} is missing", "every shard of the index", "download it again")
    return shards


def _bos_of_tokenizer(path: Path) -> int | None:
    """The id that the tokenizer puts before a text, if it does."""
    from tokenizers import Tokenizer

    if not (path / "tokenizer.json").is_file():
        return None
    ids: list[int] = Tokenizer.from_file(str(path / "tokenizer.json")).encode("", add_special_tokens=True).ids
    return ids[0] if ids else None


def _ids(*sources: int | Sequence[int | None] | None) -> tuple[int, ...]:
    """Every id of the sources once, ascending."""
    flat = [id_ for source in sources for id_ in (source if isinstance(source, Sequence) else [source])]
    return tuple(sorted({id_ for id_ in flat if id_ is not None}))
