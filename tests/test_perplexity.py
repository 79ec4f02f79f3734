"""Perplexity: the scoring graph against the stream, the four ways of reading, resuming, and the command."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import onnx
import pytest

from edgesink.errors import BadOption
from edgesink.evaluate.measurement import Measurement, Planned, planned_curves
from edgesink.evaluate.perplexity import Curve, Dense, Recompute, Sampling, follow, paired_ratio, perplexity
from edgesink.evaluate.progress import Progress
from edgesink.evaluate.scoring import Scorer, scoring_graph
from edgesink.evaluate.texts import Text
from edgesink.manifest import ONNX_GRAPH, Manifest, replace_manifest
from edgesink.runtime.session import load
from edgesink.runtime.tokenizer import Tokenizer
from edgesink.spec import StreamSpec

SPEC = StreamSpec(sinks=3, window=13, max_sinks=8, chunk=5)
TOLERANCE = 2e-5  # nats; two float32 graphs of the same weights, toy model


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("ppl") / "bundle", SPEC)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("book") / "book.txt"
    path.write_text("".join(f"Chapter {n}. It was the {n * 7919 % 1000}th day of the voyage.\n\n" for n in range(40)))
    return path


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def stream_nats(bundle, ids, sinks):
    stream = load(bundle, threads=1, sinks=sinks)
    return np.array([-log_softmax(stream.step(int(a)))[b] for a, b in itertools.pairwise(ids)])


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(3).integers(2, 258, 121)


@pytest.mark.parametrize("sinks", [0, 1, 3, 8])
def test_a_text_scored_in_chunks_has_the_likelihoods_of_feeding_it_token_by_token(bundle, ids, sinks):
    expected = stream_nats(bundle, ids, sinks)  # over seven times the window
    scorer = Scorer(bundle, threads=1)
    scorer.reset(sinks)
    found = np.concatenate([scorer.feed(ids[a:b], ids[a + 1 : b + 1]) for a, b in [(0, 1), (1, 4), (4, 120)]])
    difference = np.abs(found - expected)
    assert difference.max() < TOLERANCE, f"max {difference.max():.2e}, mean {difference.mean():.2e}"


def test_the_scoring_graph_hands_out_no_logits(bundle):
    graph = onnx.load_from_string(scoring_graph(bundle / ONNX_GRAPH)).graph
    outputs = {output.name for output in graph.output}
    assert {"logits", "next"}.isdisjoint(outputs)
    assert "nll" in outputs


def test_recomputing_is_a_dense_forward_of_the_last_window(bundle, toy, book):
    import torch

    sampling = Sampling(tokens=100, stride=20, capacity=SPEC.capacity)
    text = Text([book], Tokenizer.of_bundle(bundle))
    ids = next(text.blocks(200, 200)).ids
    curve = Curve("recompute", 0, "cache", 50)
    follow(Recompute(Scorer(bundle, threads=1)), curve, text, sampling, lambda curve: None)
    places = [19, 39, 59, 79, 99]
    with torch.inference_mode():
        windows = [torch.tensor(ids[n + 1 - SPEC.capacity : n + 1])[None] for n in places]
        logits = [toy.model(window).logits[0, -1].numpy() for window in windows]
    expected = [-log_softmax(row)[ids[n + 1]] for n, row in zip(places, logits, strict=True)]
    np.testing.assert_allclose(curve.sample, expected, atol=TOLERANCE)


def test_a_recomputed_window_begins_with_the_token_that_the_model_reads_texts_behind(bundle, toy, book, tmp_path):
    import torch

    behind = shutil.copytree(bundle, tmp_path / "behind")
    replace_manifest(behind, dataclasses.replace(Manifest.read(behind), bos_id=5))
    text = Text([book], Tokenizer.of_bundle(behind), (5,))
    ids = next(text.blocks(200, 200)).ids
    curve = Curve("recompute", 0, "cache", 50)
    sampling = Sampling(tokens=60, stride=20, capacity=SPEC.capacity)
    follow(Recompute(Scorer(behind, threads=1)), curve, text, sampling, lambda curve: None)
    expected = []
    for place in (19, 39, 59):
        window = np.append(5, ids[place + 2 - SPEC.capacity : place + 1])  # 16 tokens, as a stream would hold
        with torch.inference_mode():
            expected.append(-log_softmax(toy.model(torch.tensor(window)[None]).logits[0, -1].numpy())[ids[place + 1]])
    np.testing.assert_allclose(curve.sample, expected, atol=TOLERANCE)


def test_a_run_of_tokens_shares_a_window_in_which_the_first_sees_the_capacity_and_the_others_more(toy, book, tmp_path):
    import torch

    longer = toy.bundle(tmp_path / "longer", StreamSpec(sinks=3, window=16, max_sinks=8, chunk=5))  # 16 + 4 - 1 - 3 + 3
    sampling = Sampling(tokens=100, stride=50, capacity=SPEC.capacity, run=4)
    text = Text([book], Tokenizer.of_bundle(longer))
    ids = next(text.blocks(200, 200)).ids
    curve = Curve("recompute", 0, "cache", 50)
    follow(Recompute(Scorer(longer, threads=1)), curve, text, sampling, lambda curve: None)
    expected = []
    for first, last in [(46, 49), (96, 99)]:
        window = ids[first + 1 - SPEC.capacity : last + 1]  # 16 tokens up to the first of the run, then the run
        with torch.inference_mode():
            logits = toy.model(torch.tensor(window)[None]).logits[0].numpy()
        expected += [-log_softmax(logits[n - last - 1])[ids[n + 1]] for n in range(first, last + 1)]
    np.testing.assert_allclose(curve.sample, expected, atol=TOLERANCE)
    assert curve.counts == [4, 4]


def test_dense_is_the_model_of_transformers(bundle, toy, book):
    import torch

    text = Text([book], Tokenizer.of_bundle(bundle))
    block = next(text.blocks(300, 300))
    with torch.inference_mode():
        logits = toy.model(torch.tensor(block.ids)[None]).logits[0].numpy()
    expected = -log_softmax(logits)[np.arange(300), block.targets]
    curve = Curve("dense", 0, "cache", 100)
    follow(Dense(toy.model), curve, text, Sampling(300, 50, 16), lambda curve: None)
    assert curve.counts == [100, 100, 100]
    np.testing.assert_allclose(curve.nats, expected.reshape(3, 100).sum(1), rtol=1e-4)


@pytest.fixture
def measurement(bundle, book):
    def unused():
        raise AssertionError("no dense mode was asked for")

    text = Text([book], Tokenizer.of_bundle(bundle))
    return Measurement(
        {"cache": bundle, "recompute": bundle}, text, Sampling(4000, 900, SPEC.capacity), 500, 100, unused, threads=1
    )


PLANNED = [Planned("sinks", 3, "cache"), Planned("recompute", 0, "cache")]


def test_an_interrupted_measurement_goes_on_where_it_was(measurement, tmp_path, monkeypatch):
    whole = measurement.run(PLANNED, Progress(None, {}), lambda curve: None)
    monkeypatch.setattr(Progress, "due", lambda self: self.path is not None)

    stops = [("recompute", 3000), ("sinks", 2000)]

    def stop(curve):
        if (curve.mode, curve.position) == stops[-1]:
            stops.pop()
            raise KeyboardInterrupt

    path = tmp_path / "progress.json"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            measurement.run(PLANNED, Progress(path, {"text": "book"}), stop)
    seen = []
    parts = measurement.run(PLANNED, Progress(path, {"text": "book"}), lambda curve: seen.append(curve.position))
    assert min(seen) > 2000
    for one, other in zip(whole, parts, strict=True):
        assert one.counts == other.counts
        np.testing.assert_allclose(one.nats, other.nats, rtol=1e-7)  # cut into other chunks, the same but for rounding
        np.testing.assert_allclose(one.sample, other.sample, atol=TOLERANCE)
    assert [file.name for file in tmp_path.iterdir()] == ["progress.json"], "no session is left when all is done"


def test_a_progress_file_of_another_measurement_is_refused(tmp_path):
    path = tmp_path / "progress.json"
    progress = Progress(path, {"tokens": 1})
    progress.save(Curve("window", 0, "cache", 10), None, done=True)
    with pytest.raises(BadOption, match="another measurement"):
        Progress(path, {"tokens": 2})
    path.write_text("{")
    with pytest.raises(BadOption, match="not a progress file"):
        Progress(path, {"tokens": 1})


def test_what_is_held_of_a_text_does_not_grow_with_it(bundle, book):
    text = Text([book], Tokenizer.of_bundle(bundle))
    once = text.count()
    blocks = list(text.blocks(3 * once, 700))
    assert max(len(block.ids) for block in blocks) == 700
    joined = np.concatenate([block.ids for block in blocks])
    assert len(joined) == 3 * once, "a short text is read again"
    np.testing.assert_array_equal(joined[once + 1 : 2 * once], joined[: once - 1])
    later = np.concatenate([block.ids for block in text.blocks(3 * once, 700, start=1234)])
    np.testing.assert_array_equal(later, joined[1234:])
    np.testing.assert_array_equal(np.concatenate([b.targets for b in blocks])[:-1], joined[1:])


def test_a_text_begins_with_the_first_id_of_the_model_once(bundle, book):
    text = Text([book], Tokenizer.of_bundle(bundle), first=(1,))
    ids = np.concatenate([block.ids for block in text.blocks(2 * text.count(), 100)])
    assert ids[0] == 1
    assert (ids == 1).sum() == 1


@pytest.mark.parametrize("first", [(), (1,)])
def test_a_text_can_go_on_further_on_after_its_sinks(bundle, book, first):
    whole = Text([book], Tokenizer.of_bundle(bundle))
    later = Text([book], Tokenizer.of_bundle(bundle), first, skip=70, keep=4)
    ids = np.concatenate([block.ids for block in whole.blocks(174, 100)])
    found = np.concatenate([block.ids for block in later.blocks(104 + len(first), 30)])
    np.testing.assert_array_equal(found, [*first, *ids[:4], *ids[74:]])
    with pytest.raises(BadOption, match=r"--skip 100000000 leaves nothing"):
        Text([book], Tokenizer.of_bundle(bundle), skip=100_000_000).count()


def test_a_late_part_of_a_stream_is_that_of_one_which_came_straight_from_its_sinks(bundle):
    """Beyond layers x window tokens nothing is left of what was between: a stream cannot drift."""
    layers, sinks, far = 3, SPEC.sinks, 20_000
    reach = layers * SPEC.window
    ids = np.random.default_rng(0).integers(2, 258, far + 200)
    late, straight = Scorer(bundle), Scorer(bundle)
    nats = late.feed(ids[:-1], ids[1:])[far:]
    short = np.concatenate([ids[:sinks], ids[far - reach :]])
    np.testing.assert_allclose(straight.feed(short[:-1], short[1:])[sinks + reach :], nats, atol=1e-4)


def test_a_curve_keeps_rows_and_a_running_value():
    curve = Curve("sinks", 4, "cache", 2)
    curve.nats, curve.counts = [2.0, 6.0, 0.0], [2, 2, 0]
    assert curve.rows()[:2] == pytest.approx([np.e, np.e**3])
    assert curve.running()[:2] == pytest.approx([np.e, np.e**2])
    assert curve.perplexity_from(1) == pytest.approx(np.e**3)
    assert np.isnan(curve.rows()[2])
    assert np.isnan(perplexity(0.0, 0))
    assert (curve.label, Curve("sinks", 1, "original", 2).label) == ("4 sinks", "1 sink, original positions")


def test_the_ratio_to_recomputation_is_of_the_same_tokens():
    one, other = Curve("sinks", 4, "cache", 2, sample=[1.0, 2.0, 3.0]), Curve("recompute", 0, "cache", 2)
    other.sample = [1.0, 1.0]
    ratio, error, tokens = paired_ratio(one, other)
    assert (ratio, tokens) == (pytest.approx(np.exp(0.5)), 2)
    assert error == pytest.approx(np.exp(0.5) * 0.5)  # standard deviation sqrt(1/2), over sqrt(2)


def test_the_error_of_a_ratio_is_that_of_the_means_of_runs():
    one, other = Curve("sinks", 4, "cache", 2, sample=[2.0, 0.0, 3.0, 1.0, 9.0]), Curve("recompute", 0, "cache", 2)
    other.sample = [1.0, 1.0, 1.0, 1.0, 1.0]
    ratio, error, tokens = paired_ratio(one, other, run=2)  # means of the differences 0 and 1; the fifth is no run
    assert (ratio, tokens) == (pytest.approx(np.exp(0.5)), 4)
    assert error == pytest.approx(np.exp(0.5) * 0.5)
    with pytest.raises(BadOption, match="--run 5"):
        Sampling(100, 4, 16, run=5)


def test_no_sinks_is_the_mode_window_once_and_positions_matter_to_sinks_only():
    assert planned_curves(["window", "sinks", "recompute"], [0, 4], ["cache", "original"]) == [
        Planned("window", 0, "cache"),
        Planned("sinks", 4, "cache"),
        Planned("sinks", 4, "original"),
        Planned("recompute", 0, "cache"),
    ]
    with pytest.raises(BadOption, match="mode 'best'"):
        planned_curves(["best"], [4], ["cache"])


def test_the_command_prints_a_table_json_and_a_figure(bundle, book, tmp_path, command):
    options = ["eval", "ppl", bundle, "--text", book, "--tokens", 400, "--every", 100, "--stride", 50, "--threads", 1]
    options += ["--modes", "sinks,recompute", "--sinks", "0,3", "--plot", tmp_path / "ppl.png"]
    code, out, err = command(*options)
    assert code == 0, err
    assert [line.split("  ")[0].strip() for line in out.splitlines()[1:]] == ["window", "3 sinks", "recompute"]
    assert (tmp_path / "ppl.png").read_bytes().startswith(b"\x89PNG")
    code, out, err = command(*options, "--json")
    data = json.loads(out)
    assert data["capacity"] == SPEC.capacity
    assert [len(curve["running_perplexity"]) for curve in data["curves"]] == [4, 4, 4]
    assert data["curves"][1]["vs_recompute"]["tokens"] == 8
    assert err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--text FILE"),
        (["--text", "nowhere.txt"], "no file nowhere.txt"),
        (["--text", "{book}", "--sinks", "many"], "comma-separated integers"),
        (["--text", "{book}", "--sinks", "9"], "0 to 8"),
        (["--text", "{book}", "--modes", "sinks", "--positions", "original"], "name the model"),
        (["--text", "{book}", "--modes", "recompute", "--run", "2"], "name the model"),
    ],
)
def test_the_command_says_what_is_wrong(bundle, book, command, options, message):
    words = [str(word).replace("{book}", str(book)) for word in options]
    code, out, err = command("eval", "ppl", bundle, *words)
    assert (code, out) == (1, "")
    assert message in err


def test_smollm2_loses_the_thread_without_sinks(smollm2_bundles, english):
    """The claim itself, small: a window of 32 on real English, far past the first eviction."""
    bundle = smollm2_bundles("int4", StreamSpec.fitted(window=28))
    scorer = Scorer(bundle)
    ids = english[:401]
    nats = {}
    for sinks in (0, 4):
        scorer.reset(sinks)
        nats[sinks] = scorer.feed(ids[:-1], ids[1:])
    assert np.abs(nats[0][:31] - nats[4][:31]).max() < 0.2, "the same until the first eviction, but for int8 rounding"
    gain = float((nats[0] - nats[4])[64:].mean())
    assert gain > 0.3, f"4 sinks gain {gain:.2f} nats a token"
