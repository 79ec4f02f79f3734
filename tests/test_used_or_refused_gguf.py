"""Every field and every tensor of a GGUF is used as transformers uses it, or refused by name: as for folders."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgesink.errors import BadCheckpoint, EdgesinkError
from edgesink.export.checkpoint import open_checkpoint, weight_names

HUGE = 10**9


@pytest.fixture
def gguf(tmp_path, gguf_values):
    """gguf(fields=…, tensors=…) -> a file whose fields or tensors a function has changed."""

    def make(fields=dict, tensors=dict) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.gguf"
        write_gguf(path, fields(dict(gguf_values.fields)), tensors(dict(gguf_values.tensors)))
        return path

    return make


@pytest.fixture(scope="module")
def gguf_values():
    """Fields and tensors of a tiny llama with two layers, four query heads and two key/value heads."""
    random = np.random.default_rng(0)
    shapes = {"token_embd": (40, 32), "output": (40, 32), "output_norm": (32,)}
    for layer in ("blk.0.", "blk.1."):
        shapes |= {f"{layer}{name}": (32,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"{layer}{name}": (32, 32) for name in ("attn_q", "attn_output")}
        shapes |= {f"{layer}{name}": (16, 32) for name in ("attn_k", "attn_v")}
        shapes |= {f"{layer}{name}": (48, 32) for name in ("ffn_gate", "ffn_up")} | {f"{layer}ffn_down": (32, 48)}
    values = lambda shape: (random.normal(size=shape) * 0.3 + (len(shape) == 1)).astype(np.float32)  # noqa: E731
    fields = {
        "general.architecture": "llama", "general.name": "tiny", "general.type": "model", "general.file_type": 0,
        "llama.block_count": 2, "llama.embedding_length": 32, "llama.feed_forward_length": 48,
        "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2, "llama.context_length": 64,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 5000.0, "llama.vocab_size": 40,
        "llama.rope.dimension_count": 8,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(39)] + ["<|im_end|>"], "tokenizer.ggml.merges": ["t 1"],
        "tokenizer.ggml.token_type": [1] * 39 + [3],
    }  # fmt: skip
    return SimpleNamespace(fields=fields, tensors={f"{name}.weight": values(shape) for name, shape in shapes.items()})


def write_gguf(path, fields, tensors):
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.kv_data[0].clear()  # the architecture is one of the fields
    for name, value in fields.items():
        kind = "array" if isinstance(value, list) else {str: "string", bool: "bool", float: "float32"}.get(type(value))
        getattr(writer, f"add_{kind or ('int64' if value < 0 or value >> 32 else 'uint32')}")(name, value)
    for name, value in tensors.items():
        if isinstance(value, SimpleNamespace):  # quantised
            writer.add_tensor(name, value.data, raw_dtype=value.kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_original_opens_with_the_logits_of_transformers(gguf, verdict):
    assert verdict(gguf(), (), gguf()) == "used"


def test_each_field_of_a_gguf_deleted_or_changed(gguf, gguf_values, verdict):
    wrong, used, original = {}, set(), gguf()
    named = ("blk.0.", "blk.1.", "blk.2.", "token_embd")  # a size that is wrong is seen there
    for name, value in gguf_values.fields.items():
        if not name.startswith(("llama.", "tokenizer.ggml.eos", "tokenizer.ggml.token", "general.arch")):
            continue
        for other in ("deleted", "x", -1, 0, HUGE, 0.5, True, [7], value * 2 if isinstance(value, (int, float)) else 7):
            rest = {key: kept for key, kept in gguf_values.fields.items() if key != name}
            path = gguf(fields=lambda _: rest if other == "deleted" else rest | {name: other})  # noqa: B023
            answer = verdict(path, (name.removeprefix("llama."), *named), original)
            if answer == "used":
                used.add(name)
            elif answer != "refused":
                wrong[f"{name} = {other!r}"] = answer
    assert not wrong, "\n".join(f"{change}: {answer}" for change, answer in wrong.items())
    assert {"llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon"} <= used


def keys_of_gguf(holder=None):
    """Every field of an architecture that the gguf package knows."""
    from gguf.constants import Keys

    for value in vars(holder or Keys).values():
        if isinstance(value, type):
            yield from keys_of_gguf(value)
        elif isinstance(value, str) and value.startswith("{arch}."):
            yield value.replace("{arch}", "llama").replace("{dense}", "dense")


@pytest.mark.parametrize("value", [3, 0.25])
def test_each_field_that_llama_cpp_knows_added_to_a_gguf_is_refused_by_name(gguf, gguf_values, value):
    added = sorted(set(keys_of_gguf()) - gguf_values.fields.keys() - {"llama.rope.scaling.factor"})  # that is used
    assert len(added) > 100
    for name in (*added, "llama.rope.scale_linear", "llama.anything"):
        with pytest.raises(EdgesinkError, match=name.replace(".", r"\.") + f" = {value}"):
            open_checkpoint(gguf(fields=lambda fields: fields | {name: value}))  # noqa: B023


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"llama.expert_count": 0, "llama.expert_used_count": 0}, "used"),
        ({"llama.expert_count": 8}, "a mixture of experts"),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 1.0}, "used"),
        ({"llama.rope.scaling.type": "longrope"}, "rope.scaling.type = 'longrope'"),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 2.0}, "rope.scaling.factor = 2.0"),
        ({"llama.rope.scaling.factor": 0.0}, "rope.scaling.factor = 0.0"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.yarn_beta_fast": 8.0}, "yarn_beta_fast = 8.0"),
        ({"llama.attention.key_length": 8, "llama.attention.value_length": 8}, "used"),
        ({"llama.attention.value_length": 16}, "attention.value_length = 16"),
        ({"llama.attention.head_count_kv": [2, 2]}, "attention.head_count_kv = [2, 2]"),
        ({"general.architecture": "clip"}, "mmproj"),
        ({"general.architecture": "qwen2moe"}, "a mixture of experts"),
        ({"general.type": "adapter"}, "LoRA"),
        ({"general.type": "mmproj"}, "language model"),
        ({"general.type": "imatrix"}, "importance matrix"),
        ({"split.count": 2, "split.no": 0}, "llama-gguf-split"),
        ({"split.count": 1}, "used"),
        ({"quantize.imatrix.file": "x", "maker.note": 3, "general.anything": 1}, "used"),
        ({"tokenizer.ggml.eos_token_id": 2**32 - 1}, "eos_token_id"),
        ({"tokenizer.ggml.tokens": ["a"] * 41, "tokenizer.ggml.token_type": [1] * 41}, "tokens"),
    ],
)
def test_what_a_gguf_may_ask_for(gguf, verdict, fields, expected):
    answer = verdict(gguf(fields=lambda before: before | fields), (expected,), gguf())
    assert answer == ("used" if expected == "used" else "refused")


def test_the_end_of_a_turn_is_known_by_its_text_where_token_types_are_missing(gguf):
    without = lambda fields: {key: v for key, v in fields.items() if "token_type" not in key}  # noqa: E731
    assert open_checkpoint(gguf()).eos_ids == open_checkpoint(gguf(fields=without)).eos_ids == (2, 39)


def test_each_tensor_of_a_gguf_dropped_renamed_or_reshaped(gguf, gguf_values):
    for key, value in gguf_values.tensors.items():
        if key == "output.weight":
            continue  # without it the head is the embedding
        rest = {name: kept for name, kept in gguf_values.tensors.items() if name != key}
        changes = [rest, rest | {f"{key}_": value}, rest | {key: value[:-1]}, rest | {key: value.astype(np.int8)}]
        for changed in (*changes, rest | {key: value * np.nan}):
            with pytest.raises(EdgesinkError, match=key):
                read_all(gguf(tensors=lambda _: changed))  # noqa: B023


def read_all(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    for weight in weight_names(checkpoint.model):
        checkpoint.tensor(weight)


@pytest.mark.parametrize(
    "key",
    ["blk.0.attn_output.bias", "blk.1.attn_q_norm.weight", "rope_freqs.weight", "blk.0.ffn_gate_exps.weight",
     "blk.0.attn_sinks.weight", "blk.0.post_attention_norm.weight", "blk.2.attn_q.weight", "output.bias"],
)  # fmt: skip
def test_a_tensor_of_a_gguf_that_nobody_asks_for_is_refused_by_name(gguf, verdict, key):
    path = gguf(tensors=lambda tensors: tensors | {key: np.ones(5, np.float32)})
    assert verdict(path, (key,), path) == "refused"


def test_biases_of_a_gguf_are_all_there_or_refused(gguf):
    path = gguf(tensors=lambda tensors: tensors | {"blk.0.attn_q.bias": np.ones(32, np.float32)})
    with pytest.raises(BadCheckpoint, match=r"no tensor 'blk.0.attn_k.bias'"):
        open_checkpoint(path)


def test_divisors_of_the_rotary_frequencies_are_used(gguf):
    divisors = np.array([1, 2, 4, 8], np.float32)
    plain = open_checkpoint(gguf()).model.views[0].rotary.frequencies
    path = gguf(tensors=lambda tensors: tensors | {"rope_freqs.weight": divisors})
    assert np.allclose(open_checkpoint(path).model.views[0].rotary.frequencies, plain / divisors)


def test_a_gguf_without_a_head_is_tied(gguf, verdict):
    path = gguf(tensors=lambda tensors: {key: v for key, v in tensors.items() if key != "output.weight"})
    assert verdict(path, (), path) == "used"
    assert open_checkpoint(path).model.tied


def test_a_gguf_cut_at_any_place_is_refused(gguf, tmp_path):
    data = gguf().read_bytes()
    for length in (*range(0, 400, 7), len(data) // 2, len(data) - 1000):
        (tmp_path / "cut.gguf").write_bytes(data[:length])
        with pytest.raises(EdgesinkError):
            open_checkpoint(tmp_path / "cut.gguf")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_an_infinite_scale_is_refused_by_the_tensors_name(gguf, kind):
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    def tensors(values):
        packed = quantize(values["blk.0.ffn_up.weight"], GGMLQuantizationType[kind])
        packed[0, :2] = np.array([np.inf], np.float16).view(np.uint8)
        return values | {"blk.0.ffn_up.weight": SimpleNamespace(data=packed, kind=GGMLQuantizationType[kind])}

    checkpoint = open_checkpoint(gguf(tensors=tensors))
    for read in (checkpoint.tensor, checkpoint.blocks):
        with pytest.raises(BadCheckpoint, match="ffn_up"):
            read("layers.0.up")
