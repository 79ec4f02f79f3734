"""The Core ML package as it was saved, run by the evaluator, against the oracle: laps, chunks, precisions, faults."""

import dataclasses
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from llama_oracle import LlamaOracle, kept

from edgesink import names
from edgesink.errors import BadOption
from edgesink.export.blocks import Blocks
from edgesink.export.bundle import _draft, export
from edgesink.export.checkpoint import open_checkpoint
from edgesink.export.palettize import Palette
from edgesink.export.recipe import Recipe
from edgesink.export.to_coreml.buffers import MilBuffers
from edgesink.export.to_coreml.functions import write_coreml
from edgesink.export.to_coreml.ops import MilOps
from edgesink.export.weights import held_weights
from edgesink.gauges import resident_bytes
from edgesink.manifest import COREML_PACKAGE, Manifest
from edgesink.mil.evaluator import MilEvaluator
from edgesink.mil.structure import check_ring_structure, describe
from edgesink.ring import Ring
from edgesink.spec import StreamSpec
from edgesink.targets import KV_WRITES

STREAM = StreamSpec(sinks=4, window=12, max_sinks=8, chunk=5)  # 20 rows in a buffer of 32
RAGGED = [5, 1, 1, 3, 5, 2, 4, 1]  # chunks of 1 are decoded, the others prefilled

TOLERANCE = {
    "fp32": 1e-3,  # of logits about 30: the evaluator in float32 against the oracle in float64
    "fp16": 0.05,  # share of the logits' spread: rounding between operations
    "seen": 0.05,  # a planted fault moves logits by more than this
}


class Runner:
    """A stream through a package, driven as a runner drives it: bounded positions, padded chunks."""

    def __init__(self, package: Path, stream: StreamSpec, sinks: int, precision: str = "fp32") -> None:
        self.evaluator = MilEvaluator(package, precision)
        self.ring, self.sinks, self.position = stream.ring(sinks), sinks, 0
        self.state = self.evaluator.make_state()

    def feed(self, ids: np.ndarray) -> np.ndarray:
        """The logits after the last of up to a chunk of ids."""
        inputs = {
            names.IDS: ids[None].astype(np.int32),
            names.POSITION: np.array([self.ring.frame(self.position)], np.int32),
            names.SINKS: np.array([self.sinks], np.int32),
        }
        if len(ids) > 1:
            inputs[names.IDS] = np.pad(inputs[names.IDS], ((0, 0), (0, self.ring.chunk - len(ids))), constant_values=3)
            inputs[names.LENGTH] = np.array([len(ids)], np.int32)
        out = self.evaluator.predict(inputs, self.state, names.DECODE if len(ids) == 1 else names.PREFILL)
        if names.new_kv(0) in out:
            slots = [self.ring.slot(self.position + i) for i in range(len(ids))]
            self.state[names.kv_cache(0)][:, :, slots] = out[names.new_kv(0)][:, :, : len(ids)]
        self.position += len(ids)
        return out[names.LOGITS][0].astype(np.float64)

    def stream(self, ids: np.ndarray, sizes: list[int]) -> dict[int, np.ndarray]:
        """The logits after every chunk, by the number of tokens fed."""
        logits = {}
        while self.position < len(ids):
            size = sizes[len(logits) % len(sizes)]
            row = self.feed(ids[self.position : self.position + size])
            logits[self.position] = row
        return logits


class RoundedOracle(LlamaOracle):
    """The oracle with the package's tables: cosines rounded to float16, taken at the rows that the graph takes."""

    def __init__(self, model, stream: StreamSpec, sinks: int) -> None:
        super().__init__(model, sinks, stream.capacity - sinks)
        self.ring = stream.ring(sinks)

    def _attend(self, index, attention, h, drop):
        D, n = attention.head_dim, self.position
        q = attention.q_proj(h).view(-1, D)
        keys = self._keys[index] = kept(self._keys[index], attention.k_proj(h).view(1, -1, D), drop)
        values = self._values[index] = kept(self._values[index], attention.v_proj(h).view(1, -1, D), drop)
        here = self.ring.slot(n)
        rows = [self.ring.slot(place) for place in self._places]
        seen_from = [
            min(n, self.ring.capacity - 1) if place < self.sinks else here if row <= here else here + self.ring.slots
            for place, row in zip(self._places, rows, strict=True)
        ]
        k = self._rotate(keys, rows)  # [n, K, D]
        turns = sorted(set(seen_from))
        q = self._rotate(q.expand(len(turns), -1, -1), turns).view(len(turns), k.shape[1], -1, D)  # [turns, K, G, D]
        scores = torch.einsum("tkgd,nkd->tkgn", q, k) * attention.scaling
        chosen = torch.tensor([turns.index(place) for place in seen_from])
        weights = scores[chosen, ..., torch.arange(len(rows))].permute(1, 2, 0).softmax(-1)  # [K, G, n]
        return torch.einsum("kgn,nkd->kgd", weights, values).reshape(1, -1)

    def _rotate(self, x, places):
        angle = torch.tensor(places).double()[:, None] * self.model.model.rotary_emb.inv_freq.double()
        cos, sin = (t.half().to(x.dtype)[:, None] for t in (angle.cos(), angle.sin()))
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def stream(self, ids: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [self._forward(int(id_)).numpy() for id_ in ids]


def as_saved(weight: np.ndarray | Blocks | Palette) -> np.ndarray:
    """What the package means by a weight, in float64: floats, scales, offsets and tables rounded to float16."""
    half = lambda array: array.astype(np.float16).astype(np.float64)  # noqa: E731
    if isinstance(weight, Blocks):
        scale, offset, block = weight.scales(), weight.offsets(), weight.block
        values = weight.values().astype(np.float64)
        if offset is not None:
            zero = -offset / scale
            whole = np.rint(zero)
            values -= np.repeat(half(whole if np.abs(zero - whole).max() < 0.01 else zero), block, axis=1)
        return values * np.repeat(half(scale), block, axis=1)
    if isinstance(weight, Palette):
        return half(dataclasses.replace(weight, table=half(weight.table)).dequantized())
    return half(weight)


class Case:
    """A checkpoint exported to a package, and the oracle of the very weights in it."""

    def __init__(self, folder: Path, checkpoint, model_of: Callable, stream: StreamSpec, precision: str, kv_write: str):
        self.stream, self.checkpoint, self.precision = stream, checkpoint, precision
        recipe = Recipe.fitted("coreml", stream, precision, kv_write)
        self.weights = held_weights(checkpoint, precision, recipe.vocabulary_bits)
        self.manifest = _draft(checkpoint, recipe)
        self.package = folder / COREML_PACKAGE
        write_coreml(folder, checkpoint.model, recipe, self.manifest, self.weights)
        self._model_of, self._truth = model_of, {}

    def truth(self, ids: np.ndarray, sinks: int) -> list[np.ndarray]:
        key = sinks, ids.tobytes()
        if key not in self._truth:
            loaded = self._model_of(self.checkpoint.model, lambda name: as_saved(self.weights(name)))
            self._truth[key] = RoundedOracle(loaded, self.stream, sinks).stream(ids)
        return self._truth[key]

    def difference(self, ids: np.ndarray, sinks: int, sizes: list[int], precision: str = "fp32") -> np.ndarray:
        """|Δlogit|, the largest of each chunk's end."""
        expected = self.truth(ids, sinks)
        logits = Runner(self.package, self.stream, sinks, precision).stream(ids, sizes)
        return np.array([np.abs(row - expected[count - 1]).max() for count, row in logits.items()])


@pytest.fixture(scope="module")
def case(tmp_path_factory, toy, model_of):
    """case(precision, kv_write): the tiny random Llama, exported once for each pair."""
    made = {}

    def make(precision="fp16", kv_write="slice"):
        if (precision, kv_write) not in made:
            folder = tmp_path_factory.mktemp("coreml") / "bundle"
            folder.mkdir()
            made[precision, kv_write] = Case(folder, open_checkpoint(toy.path), model_of, STREAM, precision, kv_write)
        return made[precision, kv_write]

    return make


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, 3 * STREAM.rows + 7)


@pytest.mark.parametrize("kv_write", KV_WRITES)
def test_the_saved_package_is_the_oracle_over_three_laps(case, ids, kv_write):
    made = case(kv_write=kv_write)
    for sinks in (0, 1, 4, 8) if kv_write == "slice" else (4,):
        for sizes in ([1], [5], RAGGED) if sinks == 4 else (RAGGED,):
            found = made.difference(ids, sinks, sizes)
            assert found.max() <= TOLERANCE["fp32"], f"{sinks} sinks in {sizes}: {found.max():.1e}, {found.mean():.1e}"


@pytest.mark.parametrize("precision", ["int8", "int4", "pal4"])
def test_quantised_weights_mean_what_was_quantised(case, ids, precision):
    found = case(precision).difference(ids, 4, RAGGED)
    assert found.max() <= TOLERANCE["fp32"], f"max {found.max():.1e}, mean {found.mean():.1e}"


def test_in_float16_the_package_stays_near_the_oracle(case, ids):
    made = case()
    spread = np.std(made.truth(ids, 4))
    found = made.difference(ids, 4, RAGGED, "fp16") / spread
    assert found.max() <= TOLERANCE["fp16"], f"max {found.max():.1e}, mean {found.mean():.1e} of the spread"


@pytest.mark.parametrize("kv_write", KV_WRITES)
def test_the_package_has_the_structure_of_a_ring(case, kv_write):
    made = case(kv_write=kv_write)
    structure = describe(made.package)
    (state,) = made.manifest.states
    read_only = (state.name,) if kv_write == "host" else ()
    assert check_ring_structure(structure, read_only=read_only) == []
    model, rows = made.checkpoint.model, 32
    for function in structure.functions.values():
        ((name, kind),) = function.states
        assert (name, kind.shape) == (state.name, state.shape)
        assert kind.shape == (2 * model.layers, model.kv_heads, rows, model.head_dim)
        assert function.state_writes[name] == (0 if kv_write == "host" else model.layers)
        assert not [op for op in function.op_census if "scatter" in op or "conv" in op]
        assert function.max_rank <= 4
        assert np.prod(kind.shape) * 2 == made.manifest.state_bytes
    assert structure.default_function == names.DECODE


def test_the_package_carries_the_manifest_and_says_what_everything_is(case):
    from coremltools.proto import Model_pb2

    made = case()
    assert Manifest.from_json(describe(made.package).metadata[names.MANIFEST_KEY]) == made.manifest
    model = Model_pb2.Model.FromString((made.package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    features = [
        f for function in model.description.functions for f in (*function.input, *function.output, *function.state)
    ]
    assert len(features) == 5 + 6
    assert all(feature.shortDescription for feature in features)


def one_slot_off(buffers, layer, slot, k, v, update=MilBuffers.update):
    return update(buffers, layer, slot + 1, k, v)


KV_HEADS = 2  # of the toy


def turned_backwards(ops, x, cos, sin, rotate=MilOps.rotate):
    return rotate(ops, x, cos, sin * -1.0) if x.shape[1] == KV_HEADS else rotate(ops, x, cos, sin)


def sinks_masked(ops, condition, yes, no, where=MilOps.where):
    chosen = where(ops, condition, yes, no)
    if no != ops.masked:
        return chosen
    row = ops.constant(np.where(np.arange(condition.shape[1]) < 4, ops.masked, 0.0))
    return chosen + row


def transposed(ops, name, weight=MilOps._weight):
    if name not in ops._store and name == "layers.1.q":
        ops._store.keep(name, np.ascontiguousarray(ops._weights(name).T))
    return weight(ops, name)


def not_written(buffers, cache, write=None):
    buffers._cache = type(buffers._cache)(cache)


@pytest.mark.parametrize(
    ("owner", "method", "fault"),
    [
        (MilBuffers, "update", one_slot_off),
        (MilOps, "rotate", turned_backwards),
        (MilOps, "where", sinks_masked),
        (MilOps, "_weight", transposed),
        (MilBuffers, "_write", not_written),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_in_the_exporter_is_caught(tmp_path, toy, model_of, ids, monkeypatch, owner, method, fault):
    monkeypatch.setattr(owner, method, fault)
    made = Case(tmp_path, open_checkpoint(toy.path), model_of, STREAM, "fp16", "slice")
    found = made.difference(ids[: 2 * STREAM.rows], 4, [1, 5])
    assert found.max() > TOLERANCE["seen"], f"{found.max():.1e}"
    if method == "_write":
        assert any("never written" in finding for finding in check_ring_structure(describe(made.package)))


@dataclasses.dataclass
class FirstLayers:
    """The first layers of a real checkpoint: small enough for every run, and with its massive activations."""

    whole: object
    layers: int

    def __getattr__(self, name):
        return getattr(self.whole, name)

    @property
    def model(self):
        return dataclasses.replace(self.whole.model, view_of=self.whole.model.view_of[: self.layers])


REAL_STREAM = StreamSpec(sinks=4, window=28, max_sinks=8, chunk=8)


@pytest.fixture(scope="module")
def real_start(tmp_path_factory, smollm2, model_of):
    folder = tmp_path_factory.mktemp("real") / "bundle"
    folder.mkdir()
    return Case(folder, FirstLayers(open_checkpoint(smollm2), 3), model_of, REAL_STREAM, "fp16", "slice")


def test_real_weights_do_not_overflow_float16(real_start, english):
    """Residuals of SmolLM2 pass 10 000 in its first layers; a plain float16 norm turns them into finite garbage."""
    text = english[: REAL_STREAM.rows + 2]
    spread = np.std(real_start.truth(text, 4))
    exact = real_start.difference(text, 4, [8, 1, 8, 5])
    assert exact.max() <= TOLERANCE["fp32"], f"max {exact.max():.1e}, mean {exact.mean():.1e}"
    half = real_start.difference(text, 4, [8, 1, 8, 5], "fp16") / spread
    assert half.max() <= TOLERANCE["fp16"], f"max {half.max():.1e}, mean {half.mean():.1e} of the spread"


def test_what_core_ml_cannot_do_is_refused_before_anything_is_written(toy, tmp_path):
    out = tmp_path / "bundle"
    growing = StreamSpec(4, 12, 8, 5, "original")
    with pytest.raises(BadOption, match="fp32"):
        export(toy.path, out, "coreml", STREAM, "fp32")
    with pytest.raises(BadOption, match="original"):
        export(toy.path, out, "coreml", growing, "fp16")
    with pytest.raises(BadOption, match="kv-write"):
        export(toy.path, out, "onnx", STREAM, "fp32", kv_write="host")
    with pytest.raises(BadOption, match="pal4"):
        export(toy.path, out, "onnx", STREAM, "pal4")
    assert list(tmp_path.iterdir()) == []


def test_the_bundle_is_whole_and_says_what_is_verified(toy, tmp_path):
    manifest = export(toy.path, tmp_path / "bundle", "coreml", STREAM, "int4", kv_write="host")
    manifest.check_files(tmp_path / "bundle")
    assert (manifest.kv_write, manifest.vocabulary_bits) == ("host", 4)
    text = (tmp_path / "bundle" / "README.md").read_text()
    for label in ("checked by an independent evaluator", "parsed, not compiled", "not verified"):
        assert label in text
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def perplexity(rows: list[np.ndarray], text: np.ndarray) -> float:
    """Of text[1:], from the logits after every token."""
    shifted = np.stack(rows[:-1]) - np.max(rows[:-1], axis=-1, keepdims=True)
    likelihood = shifted[np.arange(len(text) - 1), text[1:]] - np.log(np.exp(shifted).sum(-1))
    return float(np.exp(-likelihood.mean()))


@pytest.fixture(scope="module")
def real(tmp_path_factory, smollm2, model_of):
    """real(precision): the whole model."""

    def make(precision: str) -> Case:
        folder = tmp_path_factory.mktemp("whole") / "bundle"
        folder.mkdir()
        return Case(folder, open_checkpoint(smollm2), model_of, REAL_STREAM, precision, "slice")

    return make


@pytest.mark.slow
def test_the_whole_real_model_is_the_oracle_over_three_laps(real, english):
    made, text = real("fp16"), english[: 3 * REAL_STREAM.rows + 9]
    found = made.difference(text, 4, [8, 1, 1, 5, 8, 1])
    print(f"fp32: max {found.max():.1e}, mean {found.mean():.1e}")
    expected = made.truth(text, 4)
    half = list(Runner(made.package, REAL_STREAM, 4, "fp16").stream(text, [1]).values())
    agreed = np.mean([a.argmax() == b.argmax() for a, b in zip(half, expected, strict=True)])
    ratio = perplexity(half, text) / perplexity(expected, text)
    print(f"fp16: argmax {agreed:.3f}, perplexity x {ratio:.4f} of {perplexity(expected, text):.2f}")
    assert found.max() <= TOLERANCE["fp32"]
    assert agreed >= 0.97
    assert abs(ratio - 1) <= 0.01


def full_size_pieces(ring: Ring, laps: int) -> Iterator[int]:
    """Chunks of all sizes; single tokens where the ring fills, evicts and wraps, but a chunk over the end of lap 2."""
    chunks = itertools.cycle([ring.chunk, 3, 1, ring.chunk - 1, ring.chunk, 2, 17, ring.chunk])
    ends = [ring.sinks + lap * ring.slots for lap in range(1, laps + 1)]
    stretches = [range(place - 4, place + 5) for place in (ring.capacity, *ends[:1], *ends[2:])]
    position = 0
    while position < ends[-1] + 5:
        ahead = min((s.start - position for s in stretches if s.start > position), default=ring.chunk)
        size = 1 if any(position in s for s in stretches) else min(next(chunks), ahead)
        yield size
        position += size


@pytest.mark.slow
def test_at_full_size_the_whole_real_model_is_the_oracle_over_three_laps(smollm2, model_of, english, tmp_path):
    """4 sinks and a window of 1020: 1055 rows, 3162 tokens; compared after every piece, nothing of it kept."""
    stream, start = StreamSpec.fitted(target="coreml"), time.perf_counter()
    ring = stream.ring()
    made = Case(tmp_path, open_checkpoint(smollm2), model_of, stream, "fp16", "slice")
    loaded = model_of(made.checkpoint.model, lambda name: as_saved(made.weights(name)))
    oracle, runner = RoundedOracle(loaded, stream, ring.sinks), Runner(made.package, stream, ring.sinks)
    differences, sizes, agreed = [], list(full_size_pieces(ring, 3)), 0
    for end, size in zip(itertools.accumulate(sizes), sizes, strict=True):
        piece = english[end - size : end]
        expected, found = oracle.stream(piece)[-1], runner.feed(piece)
        differences.append(np.abs(found - expected).max())
        agreed += found.argmax() == expected.argmax()
        if len(differences) % 10 == 0 or differences[-1] > TOLERANCE["fp32"]:
            print(f"{end} tokens, max {max(differences):.1e}, {resident_bytes() / 1e9:.2f} GB", flush=True)
    seconds = time.perf_counter() - start
    print(f"{sum(sizes)} tokens in {len(sizes)} pieces, {sizes.count(1)} of them single: max {max(differences):.1e}, "
          f"mean {np.mean(differences):.1e}, argmax {agreed / len(sizes):.4f}, {seconds:.0f} s")  # fmt: skip
    assert len(english) >= sum(sizes) > ring.sinks + 3 * ring.slots
    assert max(differences) <= TOLERANCE["fp32"]


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "limit"), [("int8", 1.01), ("int4", 1.25), ("pal4", 4.0)])
def test_quantising_the_whole_real_model_costs_what_its_rule_costs(real, smollm2, model_of, english, precision, limit):
    """The checkpoint is Q4_1: its matrices go over as they are in int8 and int4, and are rounded again in pal4."""
    text = english[: 2 * REAL_STREAM.rows]
    checkpoint = open_checkpoint(smollm2)
    dense = RoundedOracle(
        model_of(checkpoint.model, lambda name: checkpoint.tensor(name).astype(np.float64)), REAL_STREAM, 4
    )
    expected = dense.stream(text)
    made = real(precision)
    found = list(Runner(made.package, REAL_STREAM, 4, "fp16").stream(text, [1]).values())
    ratio = perplexity(found, text) / perplexity(expected, text)
    agreed = np.mean([a.argmax() == b.argmax() for a, b in zip(found, expected, strict=True)])
    print(f"{precision}: perplexity x {ratio:.3f}, argmax {agreed:.3f}")
    assert ratio <= limit


@pytest.mark.slow
def test_a_phone_sized_bundle_is_small_and_made_in_little_time_and_memory(smollm2, tmp_path):
    """SmolLM2-135M, 4 + 1020, int4; in a process of its own, whose peak counts mapped pages too."""
    script = (
        "import sys, time; from pathlib import Path; from edgesink.export.bundle import export\n"
        "start = time.perf_counter(); export(Path(sys.argv[1]), Path(sys.argv[2]), 'coreml', precision='int4')\n"
        "peak_kib = Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0]\n"
        "print(time.perf_counter() - start, 1024 * int(peak_kib))"
    )
    out = tmp_path / "bundle"
    done = subprocess.run([sys.executable, "-P", "-c", script, str(smollm2), str(out)], capture_output=True, text=True)
    seconds, peak_bytes = map(float, done.stdout.split())
    disk_bytes = sum(path.stat().st_size for path in (out / COREML_PACKAGE).rglob("*") if path.is_file())
    print(f"{seconds:.0f} s, peak {peak_bytes / 1e6:.0f} MB, package {disk_bytes / 1e6:.1f} MB")
    assert disk_bytes <= 85e6
    assert seconds < 120
    assert peak_bytes < 1.5e9
