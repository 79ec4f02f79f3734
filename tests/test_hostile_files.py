"""Files that lie: whatever stands in one, only EdgesinkError leaves its reader, soon and without much memory.

Each file is a good one with a few places changed: a value by another of any type or size, a key deleted or doubled, the
bytes cut, replaced or filled in. The longer form of each test tries many more.
"""

import json
import resource
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from edgesink import load
from edgesink.errors import EdgesinkError
from edgesink.export.checkpoint import open_checkpoint, weight_names
from edgesink.manifest import Manifest
from edgesink.runtime.session_file import read_session
from edgesink.spec import StreamSpec

SECONDS = 2.0  # of the process, so that a busy machine changes nothing
MEGABYTES = 200
SPEC = StreamSpec(3, 13, 8, 5)

NUMBERS = st.sampled_from([-1, 0, 1, 3, 40, 10**6, 2**31, 2**32, 2**60, 2**64, 10**400, 0.5, -0.0, 1e308, 1e-300])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.integers() | st.floats() | st.text(max_size=8) | st.just("x" * 2000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.text(max_size=12)


def hostile(quick: int):
    """Marks a test to be run with `quick` examples, and as a slow one with twenty times as many."""
    return pytest.mark.parametrize("examples", [quick, pytest.param(20 * quick, marks=pytest.mark.slow)])


def tried(examples: int, strategy, use) -> None:
    """`use` every example; it may raise EdgesinkError and nothing else, in bounded time and memory."""

    checks = list(HealthCheck)

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=examples < 500, suppress_health_check=checks
    )
    @given(strategy)
    def each(example):
        with bounded():
            assert is_one_line(refusal(use, example))

    each()


def refusal(use, example) -> str:
    try:
        use(example)
    except EdgesinkError as error:
        return str(error)
    return ""


def is_one_line(text: str) -> bool:
    return "\n" not in text and len(text) < 1500


@contextmanager
def bounded():
    before, start = peak(), time.process_time()
    yield
    assert time.process_time() - start < SECONDS
    assert peak() - before < MEGABYTES


def peak() -> float:
    """Most megabytes that the process has ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 10)


@st.composite
def changed(draw, good):
    """A JSON value like `good`, changed in one to three places."""
    value = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 3))):
        holder = value
        while True:
            places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not places:
                break
            place = draw(st.sampled_from(places))
            if isinstance(holder[place], (dict, list)) and holder[place] and draw(st.booleans()):
                holder = holder[place]
                continue
            if draw(st.integers(0, 3)) == 0:
                del holder[place]
            else:
                holder[place] = draw(VALUES)
            break
        if isinstance(holder, dict) and draw(st.integers(0, 3)) == 0:
            holder[draw(KEYS)] = draw(VALUES)
    return value


@st.composite
def damaged(draw, good: bytes):
    """Bytes like `good`: cut, filled with one value over a stretch, or with a few numbers of 1 to 8 bytes replaced."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, min(len(data), 3000) - 1)))
        kind = draw(st.sampled_from(["cut", "fill", "number", "number"]))
        if kind == "cut":
            del data[at:]
        elif kind == "fill":
            length = draw(st.integers(1, 64))
            data[at : at + length] = bytes([draw(st.integers(0, 255))]) * len(data[at : at + length])
        else:
            width = draw(st.sampled_from([1, 2, 4, 8]))
            most = (1 << 8 * width) - 1
            number = draw(st.sampled_from([0, 1, 7, most, most >> 1, 1 << 4 * width]) | st.integers(0, most))
            data[at : at + width] = (number & most).to_bytes(width, "little")[: len(data[at : at + width])]
    return bytes(data)


def tried_in_place(examples: int, path: Path, read) -> None:
    """`read` with the JSON file `path` changed in every way; as it was afterwards."""
    good = path.read_text()

    def use(values):
        path.write_text(json.dumps(values))
        read()

    try:
        tried(examples, changed(json.loads(good)), use)
    finally:
        path.write_text(good)


def read_whole(path: Path) -> None:
    """As an export reads a checkpoint, all but the writing of it."""
    checkpoint = open_checkpoint(path)
    for weight in weight_names(checkpoint.model):
        checkpoint.tensor(weight)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of a few kilobytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("hostile") / "folder"
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    read_whole(path)  # what is imported and allocated once
    return path


@hostile(40)
def test_a_config_of_any_values(folder, examples):
    tried_in_place(examples, folder / "config.json", lambda: read_whole(folder))


@hostile(30)
def test_a_config_of_any_bytes(folder, examples):
    path = folder / "config.json"
    good = path.read_bytes()

    def use(data):
        path.write_bytes(data)
        read_whole(folder)

    try:
        tried(examples, damaged(good), use)
    finally:
        path.write_bytes(good)


@hostile(30)
def test_safetensors_of_any_bytes(folder, examples, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    good = (copy / "model.safetensors").read_bytes()

    def use(data):
        (copy / "model.safetensors").unlink()  # what is mapped stays what it was
        (copy / "model.safetensors").write_bytes(data)
        read_whole(copy)

    tried(examples, damaged(good), use)


@hostile(60)
def test_a_gguf_of_any_bytes(examples, tmp_path):
    path = tmp_path / "good.gguf"
    write_gguf(path)
    read_whole(path)
    good = path.read_bytes()

    def use(data):
        path.unlink()
        path.write_bytes(data)
        read_whole(path)

    tried(examples, damaged(good), use)


def write_gguf(path: Path) -> None:
    random = np.random.default_rng(0)
    writer = GGUFWriter(path, "llama")
    for name, value in {
        "block_count": 1, "embedding_length": 32, "feed_forward_length": 48, "attention.head_count": 4,
        "attention.head_count_kv": 2, "context_length": 64,
    }.items():  # fmt: skip
        writer.add_uint32(f"llama.{name}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(40)])
    writer.add_token_types([1] * 40)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (40, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    shapes |= {f"blk.0.{name}": (32, 32) for name in ("attn_q", "attn_output")}
    shapes |= {f"blk.0.{name}": (16, 32) for name in ("attn_k", "attn_v")}
    shapes |= {f"blk.0.{name}": (48, 32) for name in ("ffn_gate", "ffn_up")} | {"blk.0.ffn_down": (32, 48)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    path = toy.bundle(tmp_path_factory.mktemp("hostile") / "bundle", SPEC)
    load(path).step(3)
    return path


def open_bundle(path: Path) -> None:
    """As a runner does before it opens the graph."""
    manifest = Manifest.read(path)
    manifest.stream.ring()
    manifest.check_files(path)


@hostile(150)
def test_a_manifest_of_any_values(bundle, examples):
    tried_in_place(examples, bundle / "manifest.json", lambda: open_bundle(bundle))


@hostile(60)
def test_a_manifest_of_any_bytes(bundle, examples):
    tried(examples, damaged((bundle / "manifest.json").read_bytes()), Manifest.from_json)


@hostile(60)
def test_a_session_of_any_header(bundle, examples, tmp_path):
    stream, path = load(bundle), tmp_path / "session"
    stream.prefill([3, 4, 5])
    stream.save(path)
    good = path.read_bytes()
    length = int.from_bytes(good[:8], "little")
    like = stream._backend.state()

    def use(header):
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + good[8 + length :])
        read_session(path, stream.manifest, like)

    tried(examples, changed(json.loads(good[8 : 8 + length])), use)


@hostile(60)
def test_a_session_of_any_bytes(bundle, examples, tmp_path):
    stream, path = load(bundle), tmp_path / "session"
    stream.prefill([3, 4, 5])
    stream.save(path)
    good = path.read_bytes()
    with safe_open(path, "numpy") as file:
        assert file.metadata()["position"] == "3"

    def use(data):
        path.unlink()
        path.write_bytes(data)
        stream.restore(path)
        assert stream.position >= 0
        stream.step(3)

    tried(examples, damaged(good), use)


@pytest.mark.parametrize("field", ["num_hidden_layers", "vocab_size", "hidden_size", "max_position_embeddings"])
@pytest.mark.parametrize("size", [2**60, 10**12, 10**400, -(2**60)])
def test_a_size_that_no_model_has_is_refused_before_a_list_is_made(folder, field, size):
    path = folder / "config.json"
    good = path.read_text()
    path.write_text(json.dumps(json.loads(good) | {field: size}))
    try:
        with bounded(), pytest.raises(EdgesinkError, match=field):
            open_checkpoint(folder)
    finally:
        path.write_text(good)
