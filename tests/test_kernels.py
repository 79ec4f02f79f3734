"""Our operators against what they are defined to be, in float64 and row by row, on every instruction set that is here.

Each operator is run by ONNX Runtime, in a graph of one node.
"""

import json
import platform
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgesink.errors import BadBundle
from edgesink.kernel_image import Image, Part
from edgesink.manifest import KERNELS_GRAPH, KERNELS_IMAGE, Manifest
from edgesink.ring import Ring
from edgesink.runtime import kernels
from edgesink.runtime.session import load
from edgesink.spec import StreamSpec

ROUNDING = 2e-3  # of the mean size of a result: 15 bits of an activation, as its worst case
FLOAT16 = 2e-3  # keys and values in float16, of a result of about 1

HERE = kernels.names()
needs_kernels = pytest.mark.skipif(not HERE, reason="no C compiler when edgesink was installed, or another processor")


def test_there_are_kernels_where_there_is_a_compiler_and_a_known_processor():
    if shutil.which("cc") and platform.machine() in ("x86_64", "aarch64", "arm64"):
        assert HERE


@pytest.mark.parametrize(
    "compiler", [("cc",), ("aarch64-linux-gnu-gcc", "-static", "qemu-aarch64")], ids=lambda c: c[0]
)
def test_the_kernels_check_themselves_on_this_processor_and_on_an_emulated_one(compiler, tmp_path):
    command, *options = compiler
    emulator = [option for option in options if not option.startswith("-")]
    for tool in (command, *emulator):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    program, sources = tmp_path / "check", sorted((Path(__file__).parent.parent / "kernels").glob("*.c"))
    flags = ["-O2", "-std=gnu11", "-Wall", "-Werror", *(option for option in options if option.startswith("-"))]
    subprocess.run([command, *flags, *map(str, sources), "-lm", "-o", str(program)], check=True)
    said = subprocess.run([*emulator, str(program)], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()
    assert all(line.endswith("passed") for line in said.splitlines())


@pytest.fixture(params=HERE or ["none"])
def instructions(request):
    """Every test on each set; the fastest again afterwards."""
    if not HERE:
        pytest.skip("no C compiler when edgesink was installed, or another processor")
    kernels.choose(request.param)
    yield request.param
    kernels.choose(HERE[0])


def session_of(nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray], threads: int = 2):
    import onnxruntime as ort

    graph = helper.make_graph(
        nodes, "one", inputs, outputs, [numpy_helper.from_array(array, name) for name, array in weights.items()]
    )
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("edgesink", 1)]
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(kernels._path()))
    options.intra_op_num_threads = threads
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def side_by_side(rows: np.ndarray) -> np.ndarray:
    """[N, M, …] -> [N / 16, M, 16, …], filled up with zeros."""
    filled = np.concatenate([rows, np.zeros((-len(rows) % 16, *rows.shape[1:]), rows.dtype)])
    return np.ascontiguousarray(filled.reshape(-1, 16, *rows.shape[1:]).swapaxes(1, 2))


class Weights:
    """A random matrix [N, K] as the operators take it, and as it is."""

    def __init__(self, rows: int, columns: int, bits: int, offset: bool) -> None:
        random = np.random.default_rng(rows * columns + bits)
        codes = random.integers(0, 1 << bits, (rows, columns)).astype(np.uint8)
        scale = (random.random((rows, columns // 32)) * 0.02 + 0.001).astype(np.float16)
        least = (random.random((rows, columns // 32)) * -0.1).astype(np.float16)
        packed = codes if bits == 8 else codes[:, 0::2] | codes[:, 1::2] << 4
        self.tensors = {"codes": side_by_side(packed.reshape(rows, -1, 4)), "scale": side_by_side(scale)}
        if offset:
            self.tensors["offset"] = side_by_side(least)
        whole = least if offset else -(1 << (bits - 1)) * scale.astype(float)
        counted = codes.reshape(rows, -1, 32) * scale[..., None].astype(float)
        self.values = (counted + whole[..., None]).reshape(rows, columns)
        self.attributes = {"rows": rows, "bits": bits, "domain": "edgesink"}


MATRICES = {
    "4 bits": Weights(96, 576, 4, offset=True),
    "4 bits, rows over": Weights(37, 96, 4, offset=True),
    "4 bits, symmetric": Weights(16, 64, 4, offset=False),
    "8 bits": Weights(70, 160, 8, offset=False),
    "one block": Weights(5, 32, 8, offset=False),
}


@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 64])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("parts", ["", "norm", "residual", "norm residual"])
def test_a_product_is_the_product(instructions, matrix, parts, tokens):
    weights = MATRICES[matrix]
    rows, columns = weights.values.shape
    random = np.random.default_rng(tokens)
    x = random.standard_normal((1, tokens, columns)).astype(np.float32)
    residual = random.standard_normal((1, tokens, rows)).astype(np.float32)
    norm = (random.random(columns) + 0.5).astype(np.float32)
    wide = x.astype(float)
    if "norm" in parts:
        wide = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * norm
    expected = wide @ weights.values.T
    size = np.abs(expected).mean()
    if "residual" in parts:
        expected = expected + residual
    got = product(weights, rows, norm if "norm" in parts else None, "residual" in parts)(x, residual)
    assert np.abs(got - expected).max() <= ROUNDING * size


@pytest.mark.parametrize("tokens", [1, 5, 64])
def test_a_gated_product_is_silu_of_the_one_half_times_the_other(instructions, tokens):
    weights = MATRICES["4 bits"]
    x = np.random.default_rng(3).standard_normal((1, tokens, 576)).astype(np.float32) * 3
    gate, up = np.split(x.astype(float) @ weights.values.T, 2, axis=-1)
    expected = gate / (1 + np.exp(-gate)) * up
    got = product(weights, 48, gated=1)(x)
    assert np.abs(got - expected).max() <= 4 * ROUNDING * np.abs(expected).mean()


def test_activations_of_any_size_come_through_a_product(instructions):
    weights = MATRICES["4 bits"]
    x = np.zeros((1, 3, 576), np.float32)
    x[0, 1] = 1e-30
    x[0, 2, 5] = 3e4  # an outlier among zeros, as a model's first token has
    got = product(weights, 96)(x)
    assert (got[0, 0] == 0).all()
    assert np.allclose(got[0, 1], x[0, 1].astype(float) @ weights.values.T, rtol=1e-3, atol=1e-33)
    assert np.allclose(got[0, 2], 3e4 * weights.values[:, 5], rtol=1e-5)


def product(
    weights: Weights, rows: int, norm: np.ndarray | None = None, residual: bool = False, gated: int = 0
) -> Callable[..., np.ndarray]:
    names = ["x", "codes", "scale", "offset" if "offset" in weights.tensors else "", "norm" if norm is not None else ""]
    node = helper.make_node(
        "BlockProduct", [*names, "residual" if residual else ""], ["y"], gated=gated, epsilon=1e-5, **weights.attributes
    )
    columns = weights.values.shape[1]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "T", columns])]
    if residual:
        inputs.append(helper.make_tensor_value_info("residual", TensorProto.FLOAT, [1, "T", rows]))
    tensors = weights.tensors | ({} if norm is None else {"norm": norm})
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "T", rows])
    session = session_of([node], inputs, [y], tensors)

    def run(x: np.ndarray, added: np.ndarray | None = None) -> np.ndarray:
        return session.run(None, {"x": x, "residual": added} if residual else {"x": x})[0]

    return run


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_row_looked_up_is_the_row(instructions, matrix):
    weights = MATRICES[matrix]
    rows, columns = weights.values.shape
    names = ["ids", "codes", "scale", *(["offset"] if "offset" in weights.tensors else [])]
    node = helper.make_node("BlockRows", names, ["y"], columns=columns, **weights.attributes)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "T"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "T", columns])
    wanted = np.array([[0, rows - 1, 3, 3, 1]])
    got = session_of([node], [ids], [y], weights.tensors).run(None, {"ids": wanted})[0]
    assert np.allclose(got[0], weights.values[wanted[0]], atol=1e-6)


# ---- attention over the ring

# (heads, key/value heads, head dimension): a group of every size there is a path for, and whole and broken widths
HEADS = [(9, 3, 64), (4, 4, 16), (8, 2, 80), (16, 1, 128), (2, 1, 32)]
# (sinks, capacity, chunk)
RINGS = [(4, 32, 8), (0, 16, 16), (1, 300, 64), (17, 40, 4)]


def rotated(x: np.ndarray, position: int, frequencies: np.ndarray) -> np.ndarray:
    """[…, D], halves paired."""
    cos, sin = np.cos(position * frequencies), np.sin(position * frequencies)
    low, high = np.split(x, 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray, token: int, ring: Ring, frequencies: np.ndarray):
    """The context of one token the slow, obvious way: its visible tokens renumbered 0, 1, 2 …; [H, D]."""
    seen = ring.visible(token)
    group = q.shape[1] // k.shape[1]
    keys = np.stack([rotated(k[j], place, frequencies) for place, j in enumerate(seen)])  # [n, K, D]
    query = rotated(q[token], len(seen) - 1, frequencies) / np.sqrt(q.shape[-1])
    scores = np.einsum("hd,nhd->hn", query, keys.repeat(group, axis=1))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hn,nhd->hd", weights / weights.sum(-1, keepdims=True), v[seen].repeat(group, axis=1))


class RingAttention:
    """The operator with its buffers, fed token by token or in chunks."""

    def __init__(self, heads: int, kv_heads: int, dim: int, ring: Ring, threads: int = 2) -> None:
        self.ring, self.pairs = ring, dim // 2
        shape = [1, kv_heads, ring.rows, dim]
        self.state = [np.full(shape, np.nan, np.float16) for _ in range(2)]  # what was never written is never read
        phases = ["cos", "sin", "sink_cos", "sink_sin"]
        half, single, whole = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64
        declared = {
            "qkv": (single, [1, "T", (heads + 2 * kv_heads) * dim]), "key": (half, shape), "value": (half, shape),
            "position": (whole, [1]), "sinks": (whole, [1]), **{name: (single, [1, "T", dim // 2]) for name in phases},
        }  # fmt: skip
        given = [helper.make_tensor_value_info(name, *kind) for name, kind in declared.items()]
        made = {"context": (single, [1, "T", heads * dim]), "key_out": (half, shape), "value_out": (half, shape)}
        out = [helper.make_tensor_value_info(name, *kind) for name, kind in made.items()]
        node = helper.make_node(
            "RingAttention", list(declared), list(made), domain="edgesink", heads=heads, capacity=ring.capacity
        )
        self.session = session_of([node], given, out, {}, threads)

    def feed(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, position: int, frequencies: np.ndarray) -> np.ndarray:
        tokens = np.arange(position, position + len(q))
        seen_from = np.minimum(tokens, self.ring.capacity - 1)
        angles = {"": tokens[:, None] * frequencies, "sink_": seen_from[:, None] * frequencies}
        packed = np.concatenate([x.reshape(len(x), -1) for x in (q, k, v)], axis=1)[None]
        feeds = {
            "qkv": packed.astype(np.float32), "key": self.state[0], "value": self.state[1],
            "position": np.array([position]), "sinks": np.array([self.ring.sinks]),
            **{f"{who}cos": np.cos(angle)[None].astype(np.float32) for who, angle in angles.items()},
            **{f"{who}sin": np.sin(angle)[None].astype(np.float32) for who, angle in angles.items()},
        }  # fmt: skip
        context, *self.state = self.session.run(None, feeds)
        return context[0].reshape(len(q), q.shape[1], q.shape[2])


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("ring", RINGS, ids=str)
def test_attention_sees_the_sinks_and_the_window_over_many_laps(instructions, heads, ring):
    (many, few, dim), ring = heads, Ring(*ring)
    random = np.random.default_rng(0)
    total = min(3 * ring.rows, 500)
    q, k, v = (random.standard_normal((total, count, dim)) for count in (many, few, few))
    frequencies = 100.0 ** (-np.arange(0, dim, 2) / dim)
    operator, position, sizes = RingAttention(many, few, dim, ring), 0, np.random.default_rng(1)
    while position < total:
        size = min(total - position, int(sizes.choice([1, 1, ring.chunk, sizes.integers(1, ring.chunk + 1)])))
        part = slice(position, position + size)
        got = operator.feed(q[part], k[part], v[part], position, frequencies)
        for token in {position, position + size - 1}:
            expected = attended(q, k, v, token, ring, frequencies)
            assert np.abs(got[token - position] - expected).max() <= FLOAT16, f"token {token} of a chunk of {size}"
        position += size


def test_attention_over_thousands_of_rows_is_cut_and_put_together(instructions):
    ring, dim = Ring(4, 3000, 64), 32
    random = np.random.default_rng(0)
    total = 4000
    q, k, v = (random.standard_normal((total, count, dim)) for count in (6, 2, 2))
    frequencies = 1000.0 ** (-np.arange(0, dim, 2) / dim)
    operator = RingAttention(6, 2, dim, ring)
    for position in range(0, total - 1, 64):
        part = slice(position, min(position + 64, total - 1))
        operator.feed(q[part], k[part], v[part], position, frequencies)
    got = operator.feed(q[-1:], k[-1:], v[-1:], total - 1, frequencies)
    assert np.abs(got[0] - attended(q, k, v, total - 1, ring, frequencies)).max() <= FLOAT16


# ---- weights laid out, and bundles


@needs_kernels
def test_rows_are_laid_side_by_side():
    rows = np.arange(32 * 12, dtype=np.uint32).astype(np.uint8).reshape(32, 12)  # of three words, two of them wanted
    rows[17:] = 0
    laid = np.full(32 * 8, 99, np.uint8)
    kernels._library().edgesink_side_by_side(rows.ctypes.data, laid.ctypes.data, 32, 12, 8, 4)
    assert laid[:8].tolist() == [0, 1, 2, 3, 12, 13, 14, 15]  # the first words of rows 0 and 1
    assert laid[64:72].tolist() == [4, 5, 6, 7, 16, 17, 18, 19]  # their second words
    assert laid[128:136].tolist() == [192, 193, 194, 195, 0, 0, 0, 0]  # row 16, and none beside it
    assert laid[192:196].tolist() == [196, 197, 198, 199]
    halves, found = np.arange(16 * 3, dtype=np.uint16), np.zeros(16 * 3, np.uint16)
    kernels._library().edgesink_side_by_side(halves.ctypes.data, found.ctypes.data, 16, 6, 6, 2)
    assert found[:4].tolist() == [0, 3, 6, 9]


def test_an_image_is_its_parts_filled_up_and_aligned():
    image = Image((Part(0, 17, 12, 8, 4), Part(4096, 1, 100, 100, 2), Part(8192, 16, 2, 2, 2)))
    assert image.offsets == [0, 256, 384, 448]
    assert Image.from_json(image.to_json()) == image


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 2, "parts": []}',
        '{"format": 1, "parts": [{"offset": 0, "rows": 8}]}',
        '{"format": 1, "parts": [{"offset": -4, "rows": 1, "row_bytes": 8, "kept": 8, "unit": 4}]}',
        '{"format": 1, "parts": [{"offset": 0, "rows": 2, "row_bytes": 9, "kept": 8, "unit": 4}]}',
        '{"format": 1, "parts": [{"offset": 0, "rows": 2, "row_bytes": 8, "kept": 12, "unit": 4}]}',
        '{"format": 1, "parts": [{"offset": 0, "rows": 0, "row_bytes": 8, "kept": 8, "unit": 4}]}',
        '{"format": 1, "parts": [{"offset": 0, "rows": 1, "row_bytes": 8, "kept": 8, "unit": 1}]}',
        '{"format": 1, "parts": [{"offset": "0", "rows": 1, "row_bytes": 8, "kept": 8, "unit": 2}]}',
        '{"format": 1, "parts": [], "more": 1}',
    ],
)
def test_a_list_of_weights_that_cannot_be_is_refused(text):
    with pytest.raises(BadBundle, match="kernels' weights"):
        Image.from_json(text)


SPEC = StreamSpec(4, 60, 16, 16)
IDS = np.random.default_rng(0).integers(2, 256, 300)


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("kernels") / "bundle", SPEC, "int4")


@needs_kernels
def test_a_stream_runs_on_the_kernels_unless_it_is_told_not_to(bundle):
    assert "kernels" in load(bundle).runner
    assert "kernels" not in load(bundle, provider="plain").runner
    assert load(bundle).state_bytes * 2 == load(bundle, provider="plain").state_bytes


def test_floats_have_no_graph_for_kernels(toy, tmp_path):
    folder = toy.bundle(tmp_path / "bundle", SPEC, "fp32")
    assert not Manifest.read(folder).has_kernels
    assert "kernels" not in load(folder).runner


@pytest.mark.parametrize("shape", [{"head_dim": 24}, {"hidden_size": 48}, {"intermediate_size": 80}], ids=str)
def test_a_model_that_the_operators_cannot_hold_has_none_or_is_refused(toy_maker, tmp_path, shape):
    from edgesink.export.checkpoint import open_checkpoint
    from edgesink.export.to_onnx.kernels import runs_on_kernels

    assert not runs_on_kernels(open_checkpoint(toy_maker(tmp_path, **shape).path).model, "int4")


@needs_kernels
def test_sessions_go_from_the_kernels_to_plain_operators_and_back(bundle, tmp_path):
    ours, plain = load(bundle), load(bundle, provider="plain")
    ours.prefill(IDS[:200])
    ours.save(tmp_path / "ours")
    plain.restore(tmp_path / "ours")
    assert plain.position == 200
    plain.prefill(IDS[200:250])
    plain.save(tmp_path / "plain")
    expected = ours.prefill(IDS[200:260])
    again = load(bundle)
    again.restore(tmp_path / "plain")
    got = again.prefill(IDS[250:260])
    assert np.corrcoef(got, expected)[0, 1] > 0.999


@needs_kernels
def test_a_session_of_the_kernels_gives_back_the_very_stream(bundle, tmp_path):
    stream = load(bundle)
    stream.prefill(IDS[:150])
    stream.save(tmp_path / "session")
    expected = stream.step(7)
    other = load(bundle)
    other.prefill(IDS[:20])
    other.restore(tmp_path / "session")
    assert (other.step(7) == expected).all()


@needs_kernels
def test_a_list_that_leads_beyond_the_weights_is_refused(bundle, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    data = json.loads((copy / KERNELS_IMAGE).read_text())
    data["parts"][-1]["offset"] += 1 << 30
    (copy / KERNELS_IMAGE).write_text(json.dumps(data))
    with pytest.raises(BadBundle, match="ends too soon"):
        kernels.Kernels(copy / KERNELS_GRAPH)


@needs_kernels
def test_streams_of_several_threads_do_not_meet(bundle):
    def run(seed: int) -> np.ndarray:
        stream = load(bundle, threads=2)
        ids = np.random.default_rng(seed).integers(2, 256, 120)
        return np.stack([stream.prefill(ids[i : i + 3]) for i in range(0, 120, 3)])

    expected = [run(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for got, alone in zip(pool.map(run, range(3)), expected, strict=True):
            assert (got == alone).all()


@needs_kernels
def test_every_tensor_of_the_graph_has_the_same_shape_for_ever(bundle):
    graph = onnx.load(bundle / KERNELS_GRAPH, load_external_data=False).graph
    assert {node.op_type for node in graph.node if node.domain == "edgesink"} == {
        "BlockProduct",
        "BlockRows",
        "RingAttention",
    }
    shapes = {
        value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
        if value.name.startswith(("key", "value"))
    }
    assert set(map(tuple, shapes.values())) == {(1, 2, SPEC.rows, 16)}
    stream = load(bundle)
    stream.prefill(IDS[:200])
    before = stream.state_bytes
    stream.position = 10**12
    assert np.isfinite(stream.step(5)).all()
    assert stream.state_bytes == before
