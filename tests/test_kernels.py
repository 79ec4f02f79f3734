"""Our operators against what they are defined to be, in float64 and row by row, on every instruction set that is here.

Each operator is run by ONNX Runtime, in a graph of one node.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import kernel_nodes as nodes
import numpy as np
import pytest
from onnx import TensorProto, helper

from edgesink.ring import Ring
from edgesink.runtime import kernels

session_of, Weights, MATRICES = nodes.session_of, nodes.Weights, nodes.MATRICES

ROUNDING = 2e-3  # of the mean size of a result: 15 bits of an activation, as its worst case
FLOAT16 = 2e-3  # keys and values in float16, of a result of about 1

HERE = kernels.available_kernels()


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
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", *(option for option in options if option.startswith("-"))]
    passes([*emulator, compiled_check(command, flags, tmp_path)])


@pytest.mark.slow
def test_hostile_calls_are_refused_or_computed_within_their_memory(tmp_path):
    flags = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }")
    empty = ["cc", *flags, str(tmp_path / "empty.c"), "-o", str(tmp_path / "empty")]
    if shutil.which("cc") is None or subprocess.run(empty, capture_output=True).returncode:
        pytest.skip("no C compiler with sanitizers")
    passes([compiled_check("cc", flags, tmp_path)])


def compiled_check(command: str, flags: list[str], folder: Path) -> str:
    program, sources = folder / "check", sorted((Path(__file__).parent.parent / "kernels").glob("*.c"))
    subprocess.run([command, "-std=gnu11", *flags, *map(str, sources), "-lm", "-o", str(program)], check=True)
    return str(program)


def passes(program: list[str]) -> None:
    environment = os.environ | {"ASAN_OPTIONS": "allocator_may_return_null=1"}  # one call asks for too much on purpose
    ran = subprocess.run(program, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()
    assert all(line.endswith("passed") for line in ran.stdout.splitlines())


@pytest.mark.parametrize("tokens", [*range(1, 10), 21, 64])  # each has code of its own up to 8
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
    got = product(weights, rows, {"norm": norm} if "norm" in parts else {}, "residual" in parts)(x, residual)
    assert np.abs(got - expected).max() <= ROUNDING * size


@pytest.mark.parametrize("tokens", [1, 3, 64])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("parts", ["", "norm", "residual"])
def test_a_bias_is_added_to_a_product(instructions, matrix, parts, tokens):
    weights = MATRICES[matrix]
    rows, columns = weights.values.shape
    random = np.random.default_rng(tokens)
    x = random.standard_normal((1, tokens, columns)).astype(np.float32)
    residual = random.standard_normal((1, tokens, rows)).astype(np.float32)
    vectors = {"bias": random.standard_normal(rows).astype(np.float32)}
    if "norm" in parts:
        vectors["norm"] = (random.random(columns) + 0.5).astype(np.float32)
    without = {name: vector for name, vector in vectors.items() if name != "bias"}
    more = vectors["bias"] + (residual if "residual" in parts else 0)
    got = product(weights, rows, vectors, "residual" in parts)(x, residual)
    assert np.abs(got - (product(weights, rows, without)(x) + more)).max() <= 1e-5


@pytest.mark.parametrize("tokens", [1, 3, 64])
@pytest.mark.parametrize("matrix", ["4 bits", "4 bits, symmetric"])
@pytest.mark.parametrize("parts", ["", "bias", "residual", "bias residual"])
def test_a_product_goes_through_its_norm_before_the_residual_is_added(instructions, matrix, parts, tokens):
    weights = MATRICES[matrix]
    rows, columns = weights.values.shape
    random = np.random.default_rng(tokens)
    x = random.standard_normal((1, tokens, columns)).astype(np.float32)
    residual = random.standard_normal((1, tokens, rows)).astype(np.float32)
    vectors = {"after": random.standard_normal(rows).astype(np.float32)}
    if "bias" in parts:
        vectors["bias"] = random.standard_normal(rows).astype(np.float32)
    row = x.astype(float) @ weights.values.T + vectors.get("bias", 0)
    expected = row / np.sqrt((row**2).mean(-1, keepdims=True) + 0.5) * vectors["after"]
    size = np.abs(expected).mean()
    if "residual" in parts:
        expected = expected + residual
    got = product(weights, rows, vectors, "residual" in parts, epsilon=0.5)(x, residual)
    assert np.abs(got - expected).max() <= 4 * ROUNDING * size


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


GATES = {1: silu, 2: gelu_tanh, 3: silu, 4: gelu_tanh}  # as the attribute counts them; from 3 on of rows in turn


@pytest.mark.parametrize("tokens", [1, 5, 64])
@pytest.mark.parametrize("gated", GATES)
def test_a_gated_product_is_the_gate_of_half_of_the_rows_times_the_others(instructions, gated, tokens):
    weights = MATRICES["4 bits"]
    x = np.random.default_rng(3).standard_normal((1, tokens, 576)).astype(np.float32) * 3
    gate, up = nodes.gate_and_up(x.astype(float) @ weights.values.T, gated)
    expected = GATES[gated](gate) * up
    got = product(weights, 48, gated=gated)(x)
    assert np.abs(got - expected).max() <= 4 * ROUNDING * np.abs(expected).mean()


@pytest.mark.parametrize("gated", GATES)
def test_a_gate_is_itself_far_out_and_nothing_on_the_other_side(instructions, gated):
    weights = MATRICES["4 bits"]
    gate, up = nodes.gate_and_up(weights.values[:, 0], gated)
    x = np.zeros((1, 2, 576), np.float32)
    x[0, :, 0] = 1e9, -1e9
    got = product(weights, 48, gated=gated)(x)[0].astype(float)
    assert np.allclose(got[0], np.where(gate > 0, gate, 0) * up * 1e18, rtol=1e-3, atol=1)
    assert np.allclose(got[1], np.where(gate < 0, gate, 0) * up * 1e18, rtol=1e-3, atol=1)


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
    weights: Weights,
    rows: int,
    vectors: dict[str, np.ndarray] | None = None,
    residual: bool = False,
    gated: int = 0,
    epsilon: float = 1e-5,
) -> Callable[..., np.ndarray]:
    tensors = weights.tensors | (vectors or {})
    given = {"x", *tensors, *(["residual"] if residual else [])}
    names = [name if name in given else "" for name in nodes.PRODUCT_INPUTS]
    while not names[-1]:
        names.pop()  # as graphs have them that were made before there was this input
    node = helper.make_node("BlockProduct", names, ["y"], gated=gated, epsilon=epsilon, **weights.attributes)
    columns = weights.values.shape[1]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "T", columns])]
    if residual:
        inputs.append(helper.make_tensor_value_info("residual", TensorProto.FLOAT, [1, "T", rows]))
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


HEAD_EPSILON = 0.25  # large, so that a norm without it is another


@dataclass(frozen=True)
class Look:
    """How a layer looks back, but for its ring."""

    frequencies: np.ndarray  # [D/2]
    amplitudes: np.ndarray | float = 1.0  # [D/2], of cosine and sine
    scale: float | None = None  # None: left out
    q_norm: np.ndarray | None = None  # [D]
    k_norm: np.ndarray | None = None

    def turned(self, x: np.ndarray, position: int, norm: np.ndarray | None) -> np.ndarray:
        """Heads […, D] behind their norm, turned to where they stand, halves paired."""
        if norm is not None:
            x = x / np.sqrt((x**2).mean(-1, keepdims=True) + HEAD_EPSILON) * norm
        angle = position * self.frequencies
        cos, sin = np.cos(angle) * self.amplitudes, np.sin(angle) * self.amplitudes
        low, high = np.split(x, 2, axis=-1)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray, token: int, ring: Ring, look: Look):
    """The context of one token the slow, obvious way: its visible tokens renumbered 0, 1, 2 …; [H, D]."""
    seen = ring.visible(token)
    group = q.shape[1] // k.shape[1]
    keys = np.stack([look.turned(k[j], place, look.k_norm) for place, j in enumerate(seen)])  # [n, K, D]
    query = look.turned(q[token], len(seen) - 1, look.q_norm) * (look.scale or q.shape[-1] ** -0.5)
    scores = np.einsum("hd,nhd->hn", query, keys.repeat(group, axis=1))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hn,nhd->hd", weights / weights.sum(-1, keepdims=True), v[seen].repeat(group, axis=1))


class RingAttention:
    """The operator with its buffers, fed token by token or in chunks."""

    def __init__(
        self, heads: int, kv_heads: int, dim: int, ring: Ring, look: Look, threads: int = 2, keys: type = np.float16,
        coarse: int | None = None, entries: tuple[str, ...] = (), logit_rows: int | None = None,
    ) -> None:  # fmt: skip
        self.ring, self.look = ring, look
        shape = [1, kv_heads, ring.rows, dim]
        self.state = [np.full(shape, np.nan, dtype) for dtype in (keys, np.float16)]  # the unwritten is never read
        phases = ["cos", "sin", "sink_cos", "sink_sin"]
        half, single, whole = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64
        key = helper.np_dtype_to_tensor_dtype(np.dtype(keys))
        declared = {
            "qkv": (single, [1, "T", (heads + 2 * kv_heads) * dim]), "key": (key, shape), "value": (half, shape),
            "position": (whole, [1]), "sinks": (whole, [1]), **{name: (single, [1, "T", dim // 2]) for name in phases},
        }  # fmt: skip
        given = [helper.make_tensor_value_info(name, *kind) for name, kind in declared.items()]
        made = {"context": (single, [1, "T", heads * dim]), "key_out": (key, shape), "value_out": (half, shape)}
        out = [helper.make_tensor_value_info(name, *kind) for name, kind in made.items()]
        norms = {"q_norm": look.q_norm, "k_norm": look.k_norm}
        norms = {name: norm.astype(np.float32) for name, norm in norms.items() if norm is not None}
        numbers = ({} if look.scale is None else {"scale": look.scale}) | ({"epsilon": HEAD_EPSILON} if norms else {})
        numbers |= {} if coarse is None else {"coarse": coarse}
        vectors = norms | ({} if logit_rows is None else {"logit_rows": np.array([logit_rows])})
        optional = ("q_norm", "k_norm", "oldest", "logit_rows")
        inputs = [*declared, *([name if name in vectors else "" for name in optional] if vectors else [])]
        node = helper.make_node(
            "RingAttention", inputs, list(made), domain="edgesink", heads=heads, capacity=ring.capacity, **numbers
        )
        self.session = session_of([node], given, out, vectors, threads, entries)

    def feed(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, position: int) -> np.ndarray:
        tokens, look = np.arange(position, position + len(q)), self.look
        seen_from = np.minimum(tokens, self.ring.capacity - 1)
        angles = {"": tokens[:, None] * look.frequencies, "sink_": seen_from[:, None] * look.frequencies}
        packed = np.concatenate([x.reshape(len(x), -1) for x in (q, k, v)], axis=1)[None]
        feeds = {
            "qkv": packed.astype(np.float32), "key": self.state[0], "value": self.state[1],
            "position": np.array([position]), "sinks": np.array([self.ring.sinks]),
            **{f"{who}cos": (np.cos(x) * look.amplitudes)[None].astype(np.float32) for who, x in angles.items()},
            **{f"{who}sin": (np.sin(x) * look.amplitudes)[None].astype(np.float32) for who, x in angles.items()},
        }  # fmt: skip
        context, *self.state = self.session.run(None, feeds)
        return context[0].reshape(len(q), q.shape[1], q.shape[2])


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("ring", RINGS, ids=str)
def test_attention_sees_the_sinks_and_the_window_over_many_laps(instructions, heads, ring):
    sees_what_it_should(heads, Ring(*ring), Look(slower_and_slower(heads[2])))


def slower_and_slower(dim: int) -> np.ndarray:
    return 100.0 ** (-np.arange(0, dim, 2) / dim)


def sees_what_it_should(
    heads: tuple[int, int, int], ring: Ring, look: Look, keys: type = np.float16, bias: np.ndarray | float = 0
) -> None:
    """Over three laps, in chunks of every size."""
    many, few, dim = heads
    random = np.random.default_rng(0)
    total = min(3 * ring.rows, 500)
    q, k, v = (random.standard_normal((total, count, dim)) for count in (many, few, few))
    k = k + bias
    operator, position, sizes = RingAttention(many, few, dim, ring, look, keys=keys), 0, np.random.default_rng(1)
    while position < total:
        size = min(total - position, int(sizes.choice([1, 1, ring.chunk, sizes.integers(1, ring.chunk + 1)])))
        part = slice(position, position + size)
        got = operator.feed(q[part], k[part], v[part], position)
        for token in {position, position + size - 1}:
            expected = attended(q, k, v, token, ring, look)
            assert np.abs(got[token - position] - expected).max() <= FLOAT16, f"token {token} of a chunk of {size}"
        position += size


FAST = slower_and_slower(48)
PART = np.where(np.arange(24) < 12, FAST, 0)  # the other half of the pairs never turns
WEIGHTS = np.random.default_rng(5).uniform(-1.5, 1.5, (2, 48))
LOOKS = {
    "any scale": Look(FAST, scale=0.05),
    "no pair turns": Look(FAST * 0),
    "half of the pairs turn": Look(PART),
    "an amplitude": Look(FAST, amplitudes=1.2),
    "norms": Look(FAST, q_norm=WEIGHTS[0], k_norm=WEIGHTS[1]),
    "a norm of queries": Look(FAST, q_norm=WEIGHTS[0]),
    "a norm of keys": Look(FAST, k_norm=WEIGHTS[1]),
    "all": Look(PART, np.where(PART == 0, 1, 1.2), 0.3, *WEIGHTS),
}


@pytest.mark.parametrize("ring", [(4, 32, 8), (0, 32, 8), (0, 16, 16)], ids=str)
@pytest.mark.parametrize("look", LOOKS)
def test_attention_looks_as_a_layer_does(instructions, look, ring):
    sees_what_it_should((6, 2, 48), Ring(*ring), LOOKS[look])


# (heads, key/value heads, head dimension), ring: a query for each path, and broken widths; chunks of 1 to 64
WIDE = [((9, 3, 64), (4, 32, 8)), ((14, 2, 64), (4, 300, 64)), ((4, 4, 16), (0, 16, 16)), ((12, 2, 128), (4, 150, 64)),
        ((8, 2, 80), (17, 40, 4))]  # fmt: skip


@pytest.mark.parametrize(("heads", "ring"), WIDE, ids=str)
def test_keys_in_float32_stand_a_bias_of_hundreds_in_pairs_that_hardly_turn(instructions, heads, ring):
    dim = heads[2]
    look = Look(np.where(np.arange(dim // 2) < dim // 4, slower_and_slower(dim), 1e-5))
    bias = np.where(look.frequencies == 1e-5, 300.3, 0)
    sees_what_it_should(heads, Ring(*ring), look, np.float32, np.tile(bias, 2))


def test_keys_in_float16_do_not(instructions):
    look = Look(np.where(np.arange(32) < 16, slower_and_slower(64), 1e-5))
    bias = np.tile(np.where(look.frequencies == 1e-5, 300.3, 0), 2)
    with pytest.raises(AssertionError, match=r"token \d+ of a chunk"):
        sees_what_it_should((9, 3, 64), Ring(4, 32, 8), look, np.float16, bias)


@pytest.mark.parametrize("look", LOOKS)
def test_attention_with_keys_in_float32_looks_as_a_layer_does(instructions, look):
    sees_what_it_should((6, 2, 48), Ring(4, 32, 8), LOOKS[look], np.float32)


@pytest.mark.parametrize("keys", [np.float16, np.float32])
def test_up_to_sixteen_tokens_have_the_very_bits_of_single_ones(instructions, keys):
    ring, total = Ring(4, 300, 16), 700
    random = np.random.default_rng(2)
    q, k, v = (random.standard_normal((total, count, 32)) for count in (6, 2, 2))
    one, many = (RingAttention(6, 2, 32, ring, Look(slower_and_slower(32)), keys=keys) for _ in range(2))
    position, sizes = 0, iter([16, 2, 9, 1, 3, 16, 5, 8] * 100)
    while position < total:
        size = min(next(sizes), total - position)
        part = slice(position, position + size)
        together = many.feed(q[part], k[part], v[part], position)
        for token in range(position, position + size):
            alone = one.feed(q[token : token + 1], k[token : token + 1], v[token : token + 1], token)
            assert (together[token - position] == alone[0]).all(), f"token {token} of a chunk of {size}"
        position += size


def test_attention_over_thousands_of_rows_is_cut_and_put_together(instructions):
    ring, dim = Ring(4, 3000, 64), 32
    random = np.random.default_rng(0)
    total = 4000
    q, k, v = (random.standard_normal((total, count, dim)) for count in (6, 2, 2))
    look = Look(1000.0 ** (-np.arange(0, dim, 2) / dim))
    operator = RingAttention(6, 2, dim, ring, look)
    for position in range(0, total - 1, 64):
        part = slice(position, min(position + 64, total - 1))
        operator.feed(q[part], k[part], v[part], position)
    got = operator.feed(q[-1:], k[-1:], v[-1:], total - 1)
    assert np.abs(got[0] - attended(q, k, v, total - 1, ring, look)).max() <= FLOAT16


# ---- long passes, in which queries, keys, weights and values may be multiplied in bfloat16

BFLOAT16 = 2e-2  # of a context, whose values are about 1: eight bits of each operand


@pytest.mark.parametrize("keys", [np.float16, np.float32])
@pytest.mark.parametrize(
    ("heads", "ring"), [((9, 3, 64), (4, 300, 64)), ((4, 4, 32), (0, 33, 33)), ((12, 2, 128), (3, 149, 40)),
                        ((4, 2, 80), (4, 90, 40)), ((6, 6, 16), (4, 90, 40))], ids=str
)  # fmt: skip
def test_coarse_attention_is_attention_to_eight_bits(instructions, heads, ring, keys):
    differs, position = 0, 0
    ring, look, random = Ring(*ring), Look(slower_and_slower(heads[2])), np.random.default_rng(0)
    q, k, v = (random.standard_normal((700, count, heads[2])) for count in (heads[0], heads[1], heads[1]))
    coarse, plain, exact = (
        RingAttention(*heads, ring, look, keys=keys, coarse=coarse, entries=entries)
        for coarse, entries in ((1, ()), (None, ()), (1, (kernels.EXACT,)))
    )
    sizes = np.random.default_rng(1)
    while position < len(q):
        size = min(len(q) - position, int(sizes.choice([1, 16, 17, ring.chunk, sizes.integers(1, ring.chunk + 1)])))
        part = slice(position, position + size)
        got, expected = (operator.feed(q[part], k[part], v[part], position) for operator in (coarse, plain))
        assert np.abs(got - expected).max() <= BFLOAT16, f"token {position}, a chunk of {size}"
        assert np.array_equal(exact.feed(q[part], k[part], v[part], position), expected)
        different = not np.array_equal(got, expected)
        assert not (different and size <= 16), "short passes have the bits of single tokens"
        differs, position = differs + different, position + size
    assert (differs > 0) == (instructions == "AVX-512 BF16" and heads[2] % 32 == 0)
    for ours, theirs in zip(coarse.state, plain.state, strict=True):
        assert np.array_equal(ours, theirs, equal_nan=True)  # what is kept is not rounded


@pytest.mark.parametrize("rows", [None, 1, 2, 16])
def test_a_pass_that_gives_one_row_of_logits_attends_together_from_nine_tokens_on(instructions, rows):
    heads, ring, look, random = (6, 2, 64), Ring(4, 100, 32), Look(slower_and_slower(64)), np.random.default_rng(0)
    q, k, v = (random.standard_normal((700, count, heads[2])) for count in (heads[0], heads[1], heads[1]))
    asked, plain, exact = (
        RingAttention(*heads, ring, look, coarse=1, entries=entries, logit_rows=given)
        for entries, given in (((), rows), ((), None), ((kernels.EXACT,), rows))
    )
    apart, seen, position, sizes = 8 if rows == 1 else 16, set(), 0, np.random.default_rng(1)
    while position < len(q):
        size = min(len(q) - position, int(sizes.choice([1, 8, 9, 15, 16])))
        part = slice(position, position + size)
        got, expected = (operator.feed(q[part], k[part], v[part], position) for operator in (asked, plain))
        assert np.abs(got - expected).max() <= BFLOAT16
        assert np.array_equal(exact.feed(q[part], k[part], v[part], position), expected)
        assert np.array_equal(got, expected) == (size <= apart), f"a pass of {size}"
        seen.add(size)
        position += size
    assert seen >= {8, 9, 16}


@pytest.mark.parametrize("rows", [0, -1])
def test_attention_for_no_rows_of_logits_is_refused(rows):
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((2, count, 16)) for count in (2, 1, 1))
    operator = RingAttention(2, 1, 16, Ring(4, 32, 8), Look(slower_and_slower(16)), logit_rows=rows)
    with pytest.raises(Exception, match="edgesink refuses the call: logit_rows is"):
        operator.feed(q, k, v, 0)


@pytest.mark.parametrize("coarse", [-1, 2, 2**32 + 1])
@pytest.mark.parametrize("entries", [(), (kernels.EXACT,)])
def test_attention_that_is_coarse_in_another_way_is_refused(coarse, entries):
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((2, count, 16)) for count in (2, 1, 1))
    operator = RingAttention(2, 1, 16, Ring(4, 32, 8), Look(slower_and_slower(16)), coarse=coarse, entries=entries)
    with pytest.raises(Exception, match="edgesink refuses the call: coarse is 0 or 1"):
        operator.feed(q, k, v, 0)
