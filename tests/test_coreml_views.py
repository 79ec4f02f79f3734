"""Core ML packages of models that look back in more than one way, run by the evaluator, against the definition."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from view_models import CHUNKS, GEMMA_LIKE, IDS, MODELS, STREAM, HandMade, ViewOracle, pieces

from edgesink import names
from edgesink.export import bundle as export_bundle
from edgesink.export.bundle import export
from edgesink.export.graph import Norm
from edgesink.export.rows import AttentionSpec
from edgesink.export.to_coreml import functions
from edgesink.export.to_coreml.buffers import MilBuffers
from edgesink.export.to_coreml.builder import Program, WeightStore, function, save_program
from edgesink.export.to_coreml.ops import SMALLEST_EPS, MilOps
from edgesink.manifest import COREML_PACKAGE, Manifest
from edgesink.memory.borrowing import alike
from edgesink.mil.evaluator import MilEvaluator
from edgesink.mil.ops import COMING, OPS
from edgesink.mil.structure import describe
from edgesink.targets import KV_WRITES
from edgesink.verify.coreml_packages import structure_findings
from edgesink.verify.runners import MilRunner
from edgesink.verify.value_rows import value_rows

TOLERANCE = {
    "fp32": 1e-4,  # share of the logits' spread: the evaluator in float32 against the oracle in float64
    "fp16": 0.05,  # likewise: rounding between operations
    "seen": 1e-3,  # a planted fault moves logits by more than this share in float32
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """bundle(name, kv_write, parts): a hand-made model, exported once for each."""
    made = {}

    def make(name: str, kv_write: str = "slice", parts: int = 1) -> Path:
        if (name, kv_write, parts) not in made:
            out = tmp_path_factory.mktemp("views") / "bundle"
            made[name, kv_write, parts] = exported(HandMade(MODELS[name]), out, kv_write, parts)
        return made[name, kv_write, parts]

    return make


def exported(
    checkpoint: HandMade, out: Path, kv_write: str | None = "slice", parts: int = 1, precision: str = "fp16",
    target: str = "coreml",
) -> Path:  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_bundle, "open_checkpoint", lambda path: checkpoint)
        export(Path("hand-made"), out, target, STREAM, precision, kv_write=kv_write, parts=parts)
    return out


@pytest.fixture(scope="module")
def truth():
    """truth(name, sinks): the oracle's logits after every token, its tables rounded as the package's are."""
    made = {}

    def make(name: str, sinks: int) -> list[np.ndarray]:
        if (name, sinks) not in made:
            made[name, sinks] = ViewOracle(HandMade(MODELS[name]), STREAM, sinks, rounded=True).run(IDS)
        return made[name, sinks]

    return make


def difference(
    bundle: Path,
    expected: list[np.ndarray],
    sinks: int,
    sizes: list[int],
    precision: str = "fp32",
    ids: np.ndarray = IDS,
) -> np.ndarray:
    """|Δlogit| as a share of the logits' spread, the largest of each piece's end."""
    runner = MilRunner(bundle, Manifest.read(bundle), "cpu", precision)
    found = {piece.stop: runner.feed(ids[piece], piece.start, sinks) for piece in pieces(len(ids), sizes)}
    largest = [np.abs(row - expected[count - 1]).max() for count, row in found.items()]
    return np.array(largest) / np.std(expected)


@pytest.mark.parametrize("sizes", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("name", MODELS)
def test_the_saved_package_is_the_definition_over_three_laps(bundle, truth, name, sizes):
    for sinks in (0, 1, 4, STREAM.max_sinks):
        found = difference(bundle(name), truth(name, sinks), sinks, sizes)
        assert found.max() <= TOLERANCE["fp32"], f"{sinks} sinks: max {found.max():.1e}, mean {found.mean():.1e}"


@pytest.mark.parametrize("name", MODELS)
def test_in_float16_the_package_stays_near_the_definition(bundle, truth, name):
    found = difference(bundle(name), truth(name, 4), 4, CHUNKS["ragged"], "fp16")
    assert found.max() <= TOLERANCE["fp16"], f"max {found.max():.1e}, mean {found.mean():.1e}"


@pytest.mark.parametrize(
    ("kv_write", "parts"), [("blend", 1), ("host", 1), ("slice", 2), ("slice", 4), ("blend", 2), ("host", 2)]
)
@pytest.mark.parametrize("name", MODELS)
def test_every_way_of_writing_and_cutting_is_the_definition(bundle, truth, name, kv_write, parts):
    found = difference(bundle(name, kv_write, parts), truth(name, 4), 4, CHUNKS["ragged"])
    assert found.max() <= TOLERANCE["fp32"], f"max {found.max():.1e}, mean {found.mean():.1e}"


@pytest.mark.parametrize("kv_write", KV_WRITES)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_package_has_a_state_for_each_ring_of_its_layers(bundle, kv_write, parts):
    """The first half of the model is two layers of the short ring; the second has one of each."""
    made = bundle("gemma-like", kv_write, parts)
    manifest = Manifest.read(made)
    far, near = names.kv_cache(0), names.kv_cache(1)
    expected = {1: [{far: 1, near: 3}], 2: [{near: 2}, {far: 1, near: 1}]}[parts]  # layers
    assert structure_findings(made, manifest) == []
    for package, layers in zip(manifest.coreml_packages, expected, strict=True):
        structure = describe(made / package)
        assert structure.max_rank <= 4
        for one in structure.functions.values():
            assert {state: kind.shape for state, kind in one.states} == {
                state: (2 * count, 2, 32, 16) for state, count in layers.items()
            }
            assert one.state_writes == (dict.fromkeys(layers, 0) if kv_write == "host" else layers)
            assert dict(one.inputs)[names.POSITION].shape == (2,)
            new = [name for name, _ in one.outputs if name.startswith(names.new_kv(0))]
            assert new == ([state.replace("kv_cache", "new_kv") for state in layers] if kv_write == "host" else [])
    assert sum(state.bytes for state in manifest.states) == manifest.state_bytes == 2 * 4 * 2 * 2 * 32 * 16


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_the_manifest_says_where_the_values_of_a_layer_are(bundle, tmp_path, name, parts):
    onnx = exported(HandMade(MODELS[name]), tmp_path / "onnx", None, precision="fp32", target="onnx")
    package, layers = bundle(name, parts=parts), range(MODELS[name].layers)
    mine, theirs = (value_rows(one, Manifest.read(one), layers, IDS[:7]) for one in (onnx, package))
    for layer in layers:
        assert alike(mine[layer], theirs[layer]) > 0.99
        assert all(alike(mine[layer], theirs[other]) < 0.9 for other in layers if other != layer)


def test_views_of_one_ring_share_its_state(bundle):
    """Layers that turn and layers that do not hold the same tokens."""
    manifest = Manifest.read(bundle("qwen-like"))
    assert len(manifest.architecture["views"]) == 3
    assert [state.shape for state in manifest.states] == [(4, 2, 32, 16), (4, 2, 32, 16)]


def test_states_that_the_manifest_does_not_have_are_a_finding(bundle):
    made = bundle("gemma-like")
    manifest = Manifest.read(made)
    wider = [dataclasses.replace(state, shape=(*state.shape[:3], 2 * state.shape[3])) for state in manifest.states]
    found = structure_findings(made, dataclasses.replace(manifest, states=tuple(wider)))
    assert len(found) == 2, "one a function"
    assert all("expected {'kv_cache': (2, 2, 32, 32), 'kv_cache_1': (6, 2, 32, 32)}" in finding for finding in found)


def test_the_evaluator_knows_what_is_emitted_and_what_is_coming_and_no_more(bundle, tmp_path):
    made = [bundle(name, kv_write) for name in MODELS for kv_write in KV_WRITES]
    made += [exported(HandMade(GEMMA_LIKE), tmp_path / p, precision=p) for p in ("int4", "pal4")]
    functions = [function for one in made for function in describe(one / COREML_PACKAGE).functions.values()]
    emitted = {kind for function in functions for kind in function.op_census} - {"read_state", "write_state"}
    assert emitted <= set(OPS)
    assert set(OPS) - emitted == set(COMING), "a kind that is not emitted has a reason in COMING, or goes"


# ---- the ends of float16


@pytest.mark.parametrize("scale", [1, 1e-3])
@pytest.mark.parametrize("mean", [0, 1, 30])
def test_a_layer_norm_holds_from_small_values_to_those_whose_squares_and_sums_overflow(tmp_path, scale, mean):
    eps, width, rng = 1e-5, 256, np.random.default_rng(0)
    norm = norm_program(tmp_path, Norm("weight", eps, "layer", "bias"), width)
    for magnitude in (0, 0.01, 1, 100, 1000):
        spike = np.where(np.arange(width) == 3, 20, 1)
        x = (scale * magnitude * (mean + rng.normal(size=width) * spike)).astype(np.float16).astype(np.float64)
        expected = (x - x.mean()) / np.sqrt(x.var() + eps)
        lost = np.abs(x).max() / 2**11 / np.sqrt(x.var() + eps)  # of the mean, which float16 holds so well
        assert np.abs(norm(x) - 1 - expected).max() <= 2e-3 * max(1, np.abs(expected).max()) + lost, magnitude


@pytest.mark.parametrize("stream_scale", [1, 25, 62, 150], ids="stream held divided by {}".format)
def test_a_norm_holds_from_the_smallest_to_the_largest_float16(tmp_path, stream_scale):
    eps, width, rng = 1e-6 / stream_scale**2, 64, np.random.default_rng(stream_scale)
    norm = norm_program(tmp_path, Norm("weight", eps), width)
    for magnitude in (0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-2, 1, 100, 60_000):
        even = rng.uniform(-1, 1, width)
        spike = np.where(np.arange(width) == 3, 1, even * 1e-3)
        for shape in (even, spike):
            x = (magnitude * shape).astype(np.float16).astype(np.float64)
            expected = x / np.sqrt((x * x).mean() + max(eps, SMALLEST_EPS))
            assert np.abs(norm(x) - expected).max() <= 2e-3 * np.abs(expected).max(), magnitude


def norm_program(folder: Path, norm: Norm, width: int):
    """A program that is one norm with a weight of ones, in float16: x [width] -> the same, normed."""
    program, store = Program(), WeightStore(folder)
    with function(program, "main", {"x": ((1, 1, width), "float16")}, {}) as (values, outputs):
        outputs.append(functions.named(MilOps(store, lambda name: np.ones(width), None).norm(values["x"], norm), "y"))
    save_program(program, "main", folder / "norm.mlpackage", folder, lambda description: None)
    evaluator = MilEvaluator(folder / "norm.mlpackage", "fp16")
    return lambda x: evaluator.predict({"x": x[None, None]}, {})["y"][0, 0].astype(np.float64)


@dataclasses.dataclass(frozen=True)
class Loud(HandMade):
    """A model whose residual stream reaches hundreds of thousands, held divided by its `stream_scale`."""

    def tensor(self, weight: str) -> np.ndarray:
        loud = 2.0**15 / self.model.stream_scale if "post_" in weight else 1
        return super().tensor(weight) * np.float32(loud)


def loud(stream_scale: float) -> Loud:
    return Loud(dataclasses.replace(GEMMA_LIKE, stream_scale=stream_scale, embedding_scale=256 / stream_scale))


def test_a_stream_beyond_float16_is_held_divided(tmp_path):
    ids = IDS[: 2 * STREAM.rows]
    expected = ViewOracle(loud(32), STREAM, 4, rounded=True).run(ids)
    assert np.allclose(expected, ViewOracle(loud(1), STREAM, 4, rounded=True).run(ids), rtol=1e-9), "one model"
    found = difference(exported(loud(32), tmp_path / "divided"), expected, 4, CHUNKS["ragged"], "fp16", ids)
    assert found.max() <= TOLERANCE["fp16"], f"max {found.max():.1e}, mean {found.mean():.1e}"
    with np.errstate(invalid="ignore"):
        whole = difference(exported(loud(1), tmp_path / "whole"), expected, 4, CHUNKS["ragged"], "fp16", ids)
    assert not np.isfinite(whole).all(), "a stream that does not overflow shows nothing"


# ---- faults planted in the exporter, each of a feature


def unbiased(ops, x, *projections, heads=MilOps.heads):
    return heads(ops, x, *(dataclasses.replace(projection, bias=None) for projection in projections))


def not_scaled(ops, ids, weight, scale, embed=MilOps.embed):
    return embed(ops, ids, weight, 1.0)


def without_eps(ops, x, norm, exact=MilOps.norm):
    return exact(ops, x, Norm(norm.weight, 1e-6))


def without_mean(ops, x, norm, exact=MilOps.norm):
    return exact(ops, x, dataclasses.replace(norm, kind="rms"))


def without_norm_bias(ops, x, norm, exact=MilOps.norm):
    return exact(ops, x, dataclasses.replace(norm, bias=None))


def without_residual_bias(ops, x, y, product, after, residual=MilOps.residual):
    return residual(ops, x, y, dataclasses.replace(product, bias=None), after)


def without_inner_bias(ops, x, up, activation, plain=MilOps.plain):
    return plain(ops, x, dataclasses.replace(up, bias=None), activation)


def not_normed_after(ops, x, y, product, after, residual=MilOps.residual):
    return residual(ops, x, y, product, None)


def silu_throughout(ops, x, gate, up, activation, gated=MilOps.gated):
    return gated(ops, x, gate, up, "silu")


def scores_of_llama(ops, q, cos, sin, keys, scale, scores=MilOps.scores):
    return scores(ops, q, cos, sin, keys, q.shape[3] ** -0.5)


def first_table(ops, name, array, row, table=MilOps.table):
    kept = ops._store._held.get(name, {}).get("value")
    return table(ops, name, array if kept is None or kept.array.shape != array.shape else kept.array, row)


def one_slot_off(buffers, layer, slot, k, v, update=MilBuffers.update):
    return update(buffers, layer, slot + 1 if buffers._cache.shape[0] == 2 else slot, k, v)


def last_layers_place(buffers, layer):
    return 2 * (len(buffers._layers) - 1)


def last_ring(x, place, exact=functions.element):
    return exact(x, x.shape[0] - 1)


def with_sinks(cls, model, stream, view, of=AttentionSpec.of.__func__):
    return dataclasses.replace(of(cls, model, stream, view), sinks=True)


FAULTS = [
    ("qwen-like", MilOps, "heads", unbiased),
    ("gemma-like", MilOps, "embed", not_scaled),
    ("gemma-like", MilOps, "norm", without_eps),
    ("neox-like", MilOps, "norm", without_mean),
    ("neox-like", MilOps, "norm", without_norm_bias),
    ("neox-like", MilOps, "residual", without_residual_bias),
    ("neox-like", MilOps, "plain", without_inner_bias),
    ("gemma-like", MilOps, "residual", not_normed_after),
    ("gemma-like", MilOps, "gated", silu_throughout),
    ("gemma-like", MilOps, "scores", scores_of_llama),
    ("qwen-like", MilOps, "table", first_table),
    ("gemma-like", MilBuffers, "update", one_slot_off),
    ("gemma-like", MilBuffers, "_first", last_layers_place),
    ("gemma-like", functions, "element", last_ring),
    ("gemma-like", AttentionSpec, "of", classmethod(with_sinks)),
]


@pytest.mark.parametrize(("name", "owner", "method", "fault"), FAULTS, ids=[fault[2] for fault in FAULTS])
def test_a_fault_in_the_exporter_is_seen(tmp_path, truth, monkeypatch, name, owner, method, fault):
    monkeypatch.setattr(owner, method, fault)
    made = exported(HandMade(MODELS[name]), tmp_path / "bundle")
    found = difference(made, truth(name, 4), 4, [5], ids=IDS[: 2 * STREAM.rows])
    assert found.max() > TOLERANCE["seen"], f"{found.max():.1e}"
