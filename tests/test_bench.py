"""The benchmark measures what it says: every contender's tokens, rounds and memory. No speed is asserted."""

import dataclasses
import json
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from edgesink import load
from edgesink.bench import peers as bench_peers
from edgesink.bench import report as bench_report
from edgesink.bench import rounds as benchmark
from edgesink.bench import worker as bench_worker
from edgesink.bench.far import time_positions
from edgesink.bench.peers import PeerOptions
from edgesink.bench.report import BenchReport
from edgesink.bench.rounds import Contender, Figures, Setting, compare, run_worker
from edgesink.cli import app
from edgesink.errors import BadOption, EdgesinkError, MissingPackage
from edgesink.evaluate.scoring import Scorer
from edgesink.manifest import Manifest
from edgesink.spec import StreamSpec

IDS = np.arange(2, 250)
SETTING = Setting(window=32, threads=1, sinks=3, prompt=8, steps=5)


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("bench") / "bundle", StreamSpec(3, 29, 8, 8))


@pytest.fixture
def ours(bundle):
    return Contender("ours", "edgesink", {32: bundle}, chunks=(0, 3))


@pytest.fixture(scope="module")
def compared(bundle):
    ours = Contender("ours", "edgesink", {32: bundle}, chunks=(0, 3))
    return compare([ours, Contender("again", "edgesink", {32: bundle})], [SETTING], IDS, rounds=2, perplexity=60)


def test_every_contender_runs_once_a_round(compared):
    assert [row.label for row in compared] == ["ours", "again"]
    for row in compared:
        assert [len(steps) for steps in row.steps_ms] == [5, 5]
        assert len(row.first_token_s) == len(row.peak_bytes) == 2
        assert min(row.peak_bytes) > 10 << 20
    assert compared[0].prefill.keys() == {"0", "3"}


def test_perplexity_is_that_of_the_tokens_after_a_full_window(compared, bundle):
    nats = Scorer(bundle).feed(IDS[:60], IDS[1:61])
    assert compared[0].perplexity == pytest.approx(float(np.exp(nats[32:].mean())), rel=1e-4)


def test_medians_are_of_the_rounds():
    row = Figures("x", SETTING)
    for slow in (1.0, 9.0, 2.0):
        steps = [slow] * 9 + [10 * slow]
        row.add(
            {"version": "1", "steps": steps, "first_token_s": slow, "peak_bytes": 5, "prefill": {"0": slow, "8": 3}}
        )
    assert row.tokens_per_second == pytest.approx(1e3 * 10 / 38)
    assert (row.percentile(50), row.percentile(100)) == (2, 20)
    assert row.prefill_per_second == ("8", 3)


def powercap(folder, **zones):
    """A folder as Linux has it, with counters that go up to 1,000,000."""
    for zone, (name, used) in zones.items():
        (folder / f"intel-rapl:{zone[1:]}").mkdir(exist_ok=True)
        for file, text in (("name", name), ("energy_uj", used), ("max_energy_range_uj", 999_999)):
            (folder / f"intel-rapl:{zone[1:]}" / file).write_text(f"{text}\n")


def test_energy_is_that_of_the_packages_and_a_counter_may_begin_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_worker, "POWERCAP", tmp_path)
    powercap(tmp_path, z0=("package-0", 900_000), z1=("package-1", 5), z2=("psys", 7))
    meter = bench_worker.EnergyMeter()
    powercap(tmp_path, z0=("package-0", 400_000), z1=("package-1", 250_005), z2=("psys", 900_000))
    assert meter.joules() == pytest.approx(0.75)


def test_where_the_system_does_not_tell_there_is_no_energy(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_worker, "POWERCAP", tmp_path)
    (tmp_path / "intel-rapl:0").mkdir()  # whose counter may not be read
    assert bench_worker.EnergyMeter().joules() is None


def test_energy_is_in_the_report_where_the_system_tells(compared, bundle):
    row = dataclasses.replace(compared[0], joules=[0.25, 0.5, 0.75])
    assert row.as_data()["joules_per_token"] == 0.5
    assert dataclasses.replace(row, joules=[]).as_data()["joules_per_token"] is None
    text = BenchReport([row, compared[1]], {32: Manifest.read(bundle)}, []).as_text()
    assert "joules per token, of all processors: ours 0.500\n" in text


def test_ctrl_c_keeps_the_rounds_that_are_whole(monkeypatch, ours):
    results = iter([{"version": "1", "steps": [1.0], "first_token_s": 1.0, "peak_bytes": 1, "prefill": {"0": 1.0}}])

    def once(*_):
        try:
            return next(results)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(benchmark, "_run", once)
    (row,) = compare([ours], [SETTING, SETTING], IDS, rounds=3)
    assert row.steps_ms == [[1.0]]


def test_a_contender_that_fails_says_its_last_words(tmp_path, bundle):
    job = {**vars(SETTING), "engine": "edgesink", "model": str(tmp_path / "nothing"), "ids": "no"}
    with pytest.raises(EdgesinkError, match="ours failed: FileNotFoundError"):
        run_worker(sys.executable, job, "ours", tmp_path)
    with pytest.raises(BadOption, match="cannot run no-such-python"):
        run_worker("no-such-python", job, "ours", tmp_path)


@pytest.mark.skipif(find_spec("onnxruntime_genai") is not None, reason="the peer is installed")
def test_a_package_that_a_contender_lacks_is_named(tmp_path):
    np.save(tmp_path / "ids.npy", IDS)
    job = {**vars(SETTING), "engine": "onnxruntime-genai", "model": "m", "ids": str(tmp_path / "ids.npy")}
    with pytest.raises(MissingPackage, match=r"peer: .*No module named 'onnxruntime_genai'.*--peer-python"):
        run_worker(sys.executable, job, "peer", tmp_path)


class FakeLlama:
    """What of llama.h the contender calls, with a cache that is a list of (token, position)."""

    __version__ = "0"

    def __init__(self):
        self.cache = []
        self.longest = 0

    def __getattr__(self, name):
        if name.endswith("_params"):
            return lambda: SimpleNamespace()
        if name == "llama_log_callback":
            return lambda function: function
        return lambda *_: 1

    def llama_batch_init(self, size, *_):
        return SimpleNamespace(
            token=[0] * size, pos=[0] * size, n_seq_id=[0] * size, logits=[0] * size, seq_id=[[0] for _ in range(size)]
        )

    def llama_memory_clear(self, *_):
        self.cache = []

    def llama_memory_seq_rm(self, memory, sequence, start, stop):
        self.cache = [(token, at) for token, at in self.cache if not start <= at < stop]

    def llama_memory_seq_add(self, memory, sequence, start, stop, delta):
        self.cache = [(token, at + delta if start <= at < stop else at) for token, at in self.cache]

    def llama_decode(self, context, batch):
        count = batch.n_tokens
        self.cache += list(zip(batch.token[:count], batch.pos[:count], strict=True))
        assert [at for _, at in self.cache] == list(range(len(self.cache))), "positions have a gap"
        self.longest = max(self.longest, len(self.cache))
        return 0


@pytest.mark.parametrize(("evict", "least"), [("one", 16), ("half", 11)])
def test_llama_cpp_keeps_the_sinks_and_the_newest_tokens_at_places_without_a_gap(monkeypatch, evict, least):
    llama = FakeLlama()
    monkeypatch.setitem(sys.modules, "llama_cpp", llama)
    engine = bench_worker.LlamaCpp({"model": "m", "window": 16, "sinks": 4, "threads": 1, "evict": evict})
    engine.feed(np.arange(15))
    sizes = []
    for token in range(15, 60):
        engine.feed(np.array([token]))
        held = [token for token, _ in llama.cache]
        assert held == [0, 1, 2, 3, *range(token - len(held) + 5, token + 1)]
        sizes.append(len(held))
    assert llama.longest == 16
    assert min(sizes) == least  # half: of 12 that are no sinks 6 go, then one comes
    assert engine.cycle == {"one": 1, "half": 6}[evict]


def test_positions_are_reached_and_timed_from_where_they_are(bundle):
    stream = load(bundle)
    blocks = iter([IDS[:50], IDS[:50], IDS[:50]])
    reached = []
    places = time_positions(stream, blocks, [20, 110], steps=4, rounds=2, report=reached.append)
    assert [place.position for place in places] == [20, 110]
    assert reached == [20, 50, 100, 110]
    assert stream.position == 114
    assert all(0 < place.p50_ms <= place.p99_ms for place in places)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(names=["vllm"]), "'vllm'; expected one of llama.cpp,"),
        (dict(names=["llama.cpp"], evictions=["all"]), "'all'; expected one of half, one"),
        (dict(pythons={"llama.cpp": "python"}), "an engine that was not chosen; expected --against llama.cpp"),
    ],
)
def test_peers_that_are_not_understood(options, message):
    with pytest.raises(BadOption, match=message):
        PeerOptions(**{"names": [], "models": {}, "pythons": {}, "quants": [], "evictions": ["half"]} | options)


def test_a_peer_that_is_not_installed_is_named_with_its_package():
    options = PeerOptions(["onnxruntime-genai"], {}, {}, [], [])
    with pytest.raises(BadOption, match="has no onnxruntime-genai; pip install onnxruntime-genai"):
        bench_peers.contenders(options, [32], lambda: None)


def test_a_peer_without_its_model_says_what_it_reads(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_peers, "_check_python", lambda *_: None)
    with pytest.raises(BadOption, match=r"--peer-model llama\.cpp=PATH, a \.gguf file"):
        bench_peers.contenders(PeerOptions(["llama.cpp"], {}, {}, [], ["one"]), [32], lambda: tmp_path)


def test_llama_cpp_runs_in_every_quantisation_and_way(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_peers, "_check_python", lambda *_: None)
    monkeypatch.setenv("EDGESINK_CACHE", str(tmp_path / "cache"))
    asked = []
    monkeypatch.setattr(
        bench_peers, "run_worker", lambda _, job, *more: asked.append(job) or open(job["goal"], "w").close()
    )
    model = tmp_path / "model.Q4_1.gguf"
    model.touch()
    options = PeerOptions(["llama.cpp"], {"llama.cpp": str(model)}, {}, ["Q8_0"], ["half", "one"])
    for _ in range(2):  # made once
        found = bench_peers.contenders(options, [32, 64], lambda: None)
    assert [one.label.split(" ", 1)[1] for one in found] == [
        "Q4_1, half at a time", "Q4_1, one at a time", "Q8_0, half at a time", "Q8_0, one at a time",
    ]  # fmt: skip
    assert [job["kind"] for job in asked] == ["Q8_0"]
    assert found[-1].models[64].name == "model.Q8_0.gguf"


def test_the_report_puts_our_speed_over_the_others(compared, bundle):
    report = BenchReport(compared, {32: Manifest.read(bundle)}, [])
    text = report.as_text()
    assert "window 32, 1 thread, median of 2" in text
    assert f"x {compared[0].tokens_per_second / compared[1].tokens_per_second:.2f}" in text
    assert 0 < report.share_of_bandwidth(compared[0]) < 1


def test_the_share_of_bandwidth_counts_the_weights_that_a_step_reads(compared, bundle, monkeypatch):
    manifest = dataclasses.replace(Manifest.read(bundle), step_weight_bytes=7_000_000)
    report = BenchReport(compared, {32: manifest}, [])
    monkeypatch.setattr(bench_report, "read_bandwidth", lambda threads: 1e9)
    ours = compared[0]
    expected = (7_000_000 + ours.state_bytes) * ours.tokens_per_second / 1e9
    assert report.share_of_bandwidth(ours) == pytest.approx(expected)
    assert "reads 7.0 MB of weights" in report.as_text()


def test_bench_prints_json_and_draws(bundle, tmp_path):
    arguments = ["bench", bundle, "--windows", "32", "--threads", "1", "--rounds", "1", "--steps", "3", "--prompt", "9"]
    plot = tmp_path / "speed.png"
    done = CliRunner().invoke(app, [str(a) for a in [*arguments, "--json", "--depths", "40,50", "--plot", plot]])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["figures"][0]["label"] == "edgesink int4"
    assert [place["position"] for place in data["positions"]] == [40, 50]
    assert data["bundles"]["32"]["state"] == 2 * 3 * 2 * 16 * (32 + 8 - 1) * 4
    assert data["machine"]["date"].startswith("20")
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--windows", "64"], "--windows 64 for a bundle with a capacity of 32 tokens"),
        (["--windows", "32", "--threads", "0"], "at least 1 thread"),
        (["--windows", "8"], "windows larger than 9 tokens"),
        (["--windows", "32", "--peer-python", "python"], "NAME=VALUE"),
    ],
)
def test_bench_refuses_what_it_cannot_time(bundle, options, message):
    done = CliRunner().invoke(app, ["bench", str(bundle), "--prompt", "9", *options])
    assert isinstance(done.exception, BadOption)
    assert message in str(done.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quick", "--rounds", "2"], "--rounds with --quick"),
        (["--quick", "--workload", "prose"], "--workload with --quick"),
        (["--workload", "prose", "--plot", "x.png"], "--plot with --workload"),
        (["--workload", "prose", "--against", "llama.cpp"], "--against with --workload"),
    ],
)
def test_an_option_that_would_not_be_used_is_refused(bundle, options, message):
    done = CliRunner().invoke(app, ["bench", str(bundle), *options])
    assert isinstance(done.exception, BadOption)
    assert message in str(done.exception)
