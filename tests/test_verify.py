"""The verifier: its schedule, its verdict, and that it finds every fault that is planted in a bundle."""

import dataclasses
import itertools
import json
import re
import shutil

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgesink import load, names
from edgesink.errors import BadBundle, BadOption
from edgesink.manifest import GOLDEN_STREAM, ONNX_GRAPH, Manifest, describe_file, replace_manifest
from edgesink.reference import Reference
from edgesink.ring import Ring
from edgesink.spec import StreamSpec
from edgesink.verify.bundle import recorded, sample_ids, verify_bundle
from edgesink.verify.compare import GREEDY, STAGES, Report, Stage, laps, pieces, stage_of, verify
from edgesink.verify.runners import open_runner
from edgesink.verify.tolerances import TABLE, Tolerance, tolerance

SPEC = StreamSpec(sinks=3, window=13, max_sinks=8, chunk=5)
TOKENS = 140  # eight times round the ring of 17


@pytest.fixture(scope="module")
def original(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("verify") / "bundle", SPEC)


@pytest.fixture
def bundle(original, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(original, tmp_path / "bundle")


# ---- the schedule


def test_stages_by_hand():
    ring = Ring(sinks=2, capacity=6, chunk=3)  # a window of 4 in a ring of 6 slots
    assert [stage_of(token, ring) for token in range(10)] == [
        "not full", "not full", "not full", "not full", "not full",
        "exactly full", "first eviction", "first lap", "wrapped", "wrapped",
    ]  # fmt: skip
    assert laps(2, ring) == 0
    assert laps(14, ring) == 2


@pytest.mark.parametrize(("sinks", "capacity", "chunk", "total"), [(4, 1024, 64, 2400), (0, 8, 3, 60), (1, 2, 1, 9)])
def test_pieces_fill_the_stream_and_step_singly_over_the_first_eviction(sinks, capacity, chunk, total):
    ring = Ring(sinks, capacity, chunk)
    sizes = list(pieces(total, ring))
    assert sum(sizes) == total
    assert max(sizes) == chunk
    ends = {end - 1 for end in itertools.accumulate(sizes)}
    assert set(range(capacity - 2, capacity + 2)) <= ends, "compared before, at and after the first eviction"
    assert {stage_of(end, ring) for end in ends} == set(STAGES) - ({"first lap"} if capacity == 2 else set())


class Counting:
    """An oracle and a runner at once: it expects the next number, and its logits are `off` by so much."""

    kind, name = "target", "a counter"

    def __init__(self, off=0.0):
        self.off, self.steps, self.fed = off, 0, []

    def step(self, token_id):
        self.steps += 1
        return np.eye(100, dtype=np.float32)[(token_id + 1) % 100] + np.float32(self.off)

    def feed(self, ids, position, sinks):
        assert position == len(self.fed)
        self.fed += ids.tolist()
        return self.step(ids[-1])


def test_the_oracle_runs_once_for_all_runners():
    ring, ids, limit = Ring(sinks=2, capacity=6, chunk=3), np.arange(40), Tolerance(1e-2, 1e-4, 0.9, "a test")
    oracle, exact, wrong = Counting(), Counting(), Counting(off=0.5)
    progress = []
    first, second = verify([(exact, limit), (wrong, limit)], oracle, ring, ids, progress.append)
    greedy = list(range(40, 40 + GREEDY))
    assert oracle.steps == 40 + GREEDY - 1
    assert exact.fed == wrong.fed == list(range(40 + GREEDY - 1))
    assert (first.failures, first.greedy) == ([], (greedy, greedy))
    assert second.failures == ["max |Δlogit| 0.5 above 0.01"]
    assert progress[-1] == 40


# ---- the verdict


def report_of(*differences, limit=None):
    limit = limit or Tolerance(1e-2, 1e-4, 0.9, "a test")
    report = Report(len(differences), 4, limit, "nobody", 1.0)
    logits = np.array([3.0, 1.0, -1.0], np.float32)
    for difference in differences:
        report.stages["wrapped"].add(logits, logits + np.array(difference, np.float32))
    return report


def test_small_differences_pass_and_are_reported():
    report = report_of([1e-3, 0, 0], [0, -3e-3, 0])
    assert report.failures == []
    parity = report.parity()
    assert (parity.passed, parity.argmax_agreement) == (True, 1.0)
    assert parity.max_abs_diff == pytest.approx(3e-3, rel=1e-3)
    assert parity.mean_abs_diff == pytest.approx(4e-3 / 6, rel=1e-3)


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ([[0, 0, 0], [0.02, 0, 0]], r"max \|Δlogit\| 0.02 above 0.01"),
        ([[0, 0, 0], [0, 5, 0]], "argmax agreement 50.0% below 90%"),
        ([[0, 0, 0], [np.nan, 0, 0]], "1e"),
        ([[np.inf, 0, 0]], "above"),
    ],
)
def test_what_is_wrong_is_named(differences, message):
    report = report_of(*differences)
    assert not report.parity().passed
    assert json.dumps(dataclasses.asdict(report.parity()), allow_nan=False), "the manifest stays JSON"
    assert re.search(message, "; ".join(report.failures))


def test_the_bundle_carries_what_runs_everywhere_and_a_failure_before_a_success():
    good, bad = report_of([0, 0, 0]), report_of([1, 0, 0])
    kernels, core_ml = dataclasses.replace(bad, kind="kernels"), dataclasses.replace(good, kind="core_ml")
    assert recorded([good, kernels]) is good
    assert recorded([good, core_ml]) is core_ml
    assert recorded([bad, core_ml]) is bad


def test_a_fault_of_the_structure_fails_whatever_the_numbers_are():
    report = dataclasses.replace(report_of([0, 0, 0]), structure=["decode has no state"])
    assert report.failures == ["decode has no state"]
    assert not report.parity().passed


def test_every_row_of_the_tolerances_has_a_reason_and_none_is_tighter_without_sinks():
    for (arithmetic, with_sinks), row in TABLE.items():
        assert len(row.reason) > 20
        if not with_sinks:
            assert row.max_abs > TABLE[arithmetic, True].max_abs


# ---- bundles


@pytest.mark.parametrize("sinks", [0, 1, 3, 8])
def test_a_faithful_bundle_passes_and_its_manifest_says_so(bundle, toy, sinks):
    (report,) = verify_bundle(bundle, toy.path, tokens=TOKENS, sinks=sinks)
    assert report.failures == []
    assert all(stage.compared for stage in report.stages.values())
    assert report.greedy[0] == report.greedy[1]
    manifest = Manifest.read(bundle)
    assert manifest.parity == report.parity()
    manifest.check_files(bundle)
    golden = json.loads((bundle / GOLDEN_STREAM).read_text())
    assert GOLDEN_STREAM in [file.path for file in manifest.files]
    stream = load(bundle, sinks=golden["sinks"])
    logits = stream.prefill(golden["prompt"])
    for expected in golden["expected"]:
        assert logits.argmax() == expected
        logits = stream.step(expected)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_rounded_weights_are_held_against_the_same_rounded_weights(toy, tmp_path, precision):
    bundle = toy.bundle(tmp_path / precision, SPEC, precision)
    report, *_ = verify_bundle(bundle, toy.path, tokens=60)  # the kernels are verified in test_kernels_parity
    assert report.failures == [], report.whole


def test_original_positions_are_held_against_original_positions(toy, tmp_path):
    bundle = toy.bundle(tmp_path / "original", dataclasses.replace(SPEC, positions="original"))
    (report,) = verify_bundle(bundle, toy.path, tokens=TOKENS)
    assert report.failures == []


def resigned(bundle, **changes):
    """The manifest as a forger would write it: with the digests of the spoilt files."""
    manifest = Manifest.read(bundle)
    files = tuple(describe_file(bundle, bundle / file.path) for file in manifest.files)
    replace_manifest(bundle, dataclasses.replace(manifest, files=files, **changes))


def edit_graph(bundle, change):
    model = onnx.load(bundle / ONNX_GRAPH, load_external_data=False)
    change(model.graph)
    (bundle / ONNX_GRAPH).write_bytes(model.SerializeToString())
    resigned(bundle)


def perturb_one_weight(bundle, toy, tmp_path):
    """One number of one matrix is off by half the spread of the weights."""
    graph = onnx.load(bundle / ONNX_GRAPH, load_external_data=False).graph
    tensor = next(t for t in graph.initializer if t.name == "layers.1.down")
    offset = int(next(entry.value for entry in tensor.external_data if entry.key == "offset"))
    with (bundle / f"{ONNX_GRAPH}.data").open("r+b") as data:
        data.seek(offset)
        value = np.frombuffer(data.read(4), np.float32)[0]
        data.seek(offset)
        data.write(np.float32(value + 0.1).tobytes())
    resigned(bundle)


def change_the_rope_base(bundle, toy, tmp_path):
    """The graph has the frequencies of another base; the manifest says nothing of it."""
    other = shutil.copytree(toy.path, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 10500.0
    (other / "config.json").write_text(json.dumps(config))
    true = Manifest.read(bundle).architecture
    shutil.rmtree(bundle)
    dataclasses.replace(toy, path=other).bundle(bundle, SPEC)
    wrong = Manifest.read(bundle).architecture
    assert wrong["views"][0]["rotary"] != true["views"][0]["rotary"]
    resigned(bundle, architecture=true)


def shift_one_slot(bundle, toy, tmp_path):
    """The keys of one layer are written one row too far, the last of them round to the first."""

    def change(graph):
        (write,) = [node for node in graph.node if names.updated(names.key(1)) in node.output]
        one = numpy_helper.from_array(np.array([0, 0, 1]), "one_row")
        rows = numpy_helper.from_array(np.array([1, 1 << 30, SPEC.rows]), "all_rows")
        graph.initializer.extend([one, rows])
        index = list(graph.node).index(write)
        graph.node.insert(index, helper.make_node("Mod", ["shifted", "all_rows"], ["shifted_row"]))
        graph.node.insert(index, helper.make_node("Add", [write.input[1], "one_row"], ["shifted"]))
        write.input[1] = "shifted_row"

    edit_graph(bundle, change)


def drop_the_sinks(bundle, toy, tmp_path):
    """The graph takes every stream for one without sinks."""

    def change(graph):
        graph.initializer.append(numpy_helper.from_array(np.array([0]), "no_sinks"))
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == names.SINKS:
                    node.input[index] = "no_sinks"

    edit_graph(bundle, change)


FAULTS = [perturb_one_weight, change_the_rope_base, shift_one_slot, drop_the_sinks]


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found_and_ends_with_exit_code_1(bundle, toy, tmp_path, command, spoil):
    spoil(bundle, toy, tmp_path)
    Manifest.read(bundle).check_files(bundle)  # the digests alone would let it pass
    code, out, err = command("verify", bundle, "--model", toy.path, "--tokens", TOKENS)
    assert code == 1, out
    assert "FAILED" in out
    assert "above" in err
    manifest = Manifest.read(bundle)
    assert manifest.parity.passed is False
    assert not (bundle / GOLDEN_STREAM).exists(), "golden tokens of a bundle that is wrong"
    manifest.check_files(bundle)


def test_sinks_matter_only_from_the_first_eviction_and_the_stages_show_it(bundle, toy, tmp_path):
    drop_the_sinks(bundle, toy, tmp_path)
    (report,) = verify_bundle(bundle, toy.path, tokens=TOKENS)
    stages = report.stages
    limit = TABLE["single", True].max_abs
    assert stages["not full"].max_abs < limit
    assert stages["exactly full"].max_abs < limit
    assert stages["first eviction"].max_abs > limit


def test_a_bundle_whose_files_were_altered_is_not_even_run(bundle, toy):
    with (bundle / f"{ONNX_GRAPH}.data").open("r+b") as data:
        data.write(b"\1")
    with pytest.raises(BadBundle, match="altered"):
        verify_bundle(bundle, toy.path, tokens=10)


def test_the_checkpoint_of_another_model_is_refused(bundle, toy_maker, tmp_path):
    other = toy_maker(tmp_path / "other", num_hidden_layers=2)
    with pytest.raises(BadOption, match="--model"):
        verify_bundle(bundle, other.path, tokens=10)


def test_the_command_exports_a_model_and_prints_json(toy, command):
    code, out, err = command("verify", toy.path, "--window", 12, "--tokens", 80, "--json")
    assert code == 0, err
    data = json.loads(out)
    assert data["failures"] == []
    assert data["laps"] > 3
    assert data["oracle_text"] == data["artefact_text"]


def test_a_core_ml_bundle_is_read_by_the_evaluator(toy, tmp_path):
    from edgesink.export.bundle import export

    bundle = tmp_path / "coreml"
    export(toy.path, bundle, "coreml", SPEC, "fp16")
    report, *_ = verify_bundle(bundle, toy.path, tokens=60)
    assert report.failures == [], report.whole
    assert "MIL" in report.runner


def test_a_device_that_is_not_there_is_named(bundle, toy, command):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    code, _, err = command("verify", bundle, "--model", toy.path, "--device", "cuda")
    assert code == 1
    assert "PyTorch finds no GPU here" in err


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_decoder_in_pytorch_is_compared_too_where_its_type_is_given(bundle, toy, dtype):
    reports = verify_bundle(bundle, toy.path, torch_type=dtype)
    assert [report.kind for report in reports] == ["target", "torch"]
    assert dtype in reports[1].runner
    assert [report.failures for report in reports] == [[], []]
    assert (reports[1].whole.max_abs > 1e-4) == (dtype != "float32")


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_gpu_computes_what_the_oracle_computes(toy, tmp_path, precision):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU, or no CUDA build of torch")
    bundle = toy.bundle(tmp_path / precision, SPEC, precision)
    for report in verify_bundle(bundle, toy.path, device="cuda", tokens=2000):
        assert report.failures == [], report.whole


def test_smollm2_passes_from_the_first_token_to_several_wraps(smollm2_bundles, smollm2_oracle_model):
    """Real weights: 2e-3 at every stage."""
    bundle = smollm2_bundles("fp32", StreamSpec.fitted(window=12))
    manifest = Manifest.read(bundle)
    ring = manifest.stream.ring()
    oracle = Reference(smollm2_oracle_model, ring.sinks, ring.window)
    limit = tolerance(manifest, "cpu", ring.sinks)
    (report,) = verify([(open_runner(bundle, manifest), limit)], oracle, ring, sample_ids(bundle, 64))
    assert report.failures == []
    assert report.laps > 2


@pytest.mark.slow
@pytest.mark.parametrize("sinks", [0, 4])
def test_smollm2_in_4_bits_passes_by_the_rounding_of_its_activations(smollm2, smollm2_bundles, tmp_path, sinks):
    bundle = shutil.copytree(smollm2_bundles("int4", StreamSpec.fitted(window=12)), tmp_path / "int4")
    for report in verify_bundle(bundle, smollm2, tokens=120, sinks=sinks):
        assert report.failures == []


def test_the_sample_text_needs_no_file_and_is_the_same_each_time(original):
    ids = sample_ids(original, 500)
    assert ids.shape == (500,)
    np.testing.assert_array_equal(ids[:100], sample_ids(original, 100))


def test_the_tolerance_follows_from_the_bundle(original):
    manifest = Manifest.read(original)
    assert tolerance(manifest, "cpu", 4) is TABLE["single", True]
    assert tolerance(manifest, "cpu", 0) is TABLE["single", False]
    assert tolerance(dataclasses.replace(manifest, precision="int4"), "cpu", 4) is TABLE["int8 activations", True]
    assert tolerance(dataclasses.replace(manifest, precision="fp16"), "cuda", 4) is TABLE["half", True]
    halves = tuple(dataclasses.replace(state, dtype="float16") for state in manifest.states)
    in_halves = dataclasses.replace(manifest, states=halves)
    assert tolerance(in_halves, "cpu", 4) is TABLE["half", True]


def test_a_stage_counts_agreement_and_takes_nan_for_a_large_difference():
    stage = Stage()
    stage.add(np.array([1.0, 0.0]), np.array([np.nan, 0.0]))
    assert (stage.compared, stage.agreed) == (1, 0)
    assert stage.max_abs >= 1e9
