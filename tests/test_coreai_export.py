"""The Core AI asset in Apple's own interpreter, which runs on Linux too, against the oracle."""

import numpy as np
import pytest
import view_models
from view_models import IDS, MODELS, HandMade, ViewOracle, pieces

from edgesink.errors import BadOption, MissingPackage
from edgesink.export.bundle import export
from edgesink.manifest import COREAI_MODEL
from edgesink.reference import Reference
from edgesink.spec import StreamSpec
from edgesink.verify.bundle import verify_bundle

pytestmark = pytest.mark.filterwarnings("ignore")  # the converter's own

STREAM = StreamSpec(sinks=4, window=12, max_sinks=8, chunk=5)
RAGGED = [5, 1, 1, 3, 5, 2, 4, 1]
TOLERANCE = 1e-3  # float32 on both sides: the order of sums


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, toy):
    pytest.importorskip("coreai_torch", reason="Apple's coreai-torch is not installed: pip install 'edgesink[coreai]'")
    out = tmp_path_factory.mktemp("coreai") / "bundle"
    return out, export(toy.path, out, "coreai", STREAM, "fp32")


@pytest.mark.parametrize("sinks", [0, 4, 8])
def test_both_entry_points_are_the_oracle_over_three_laps_on_one_state(bundle, toy, sinks):
    from edgesink.verify.coreai import CoreAiStream

    out, manifest = bundle
    ids = np.random.default_rng(6).integers(0, manifest.vocab, 3 * STREAM.rows + 4)
    stream = CoreAiStream(out / COREAI_MODEL, manifest)
    reference = Reference(toy.model, sinks, STREAM.capacity - sinks)
    position, turn, worst = 0, 0, 0.0
    while position < len(ids):
        piece = ids[position : position + RAGGED[turn % len(RAGGED)]]
        found = stream.feed(piece, position, sinks)
        worst = max(worst, float(np.abs(found - reference.prefill(piece)).max()))
        position, turn = position + len(piece), turn + 1
    stream.close()
    assert worst <= TOLERANCE, f"max {worst:.1e}"


@pytest.mark.parametrize("name", MODELS)
def test_layers_with_rings_of_their_own_are_the_definition(name, tmp_path, monkeypatch):
    pytest.importorskip("coreai_torch", reason="Apple's coreai-torch is not installed: pip install 'edgesink[coreai]'")
    from edgesink.verify.coreai import CoreAiStream

    out, checkpoint = tmp_path / "bundle", HandMade(MODELS[name])
    monkeypatch.setattr("edgesink.export.bundle.open_checkpoint", lambda path: checkpoint)
    manifest = export(checkpoint.path, out, "coreai", view_models.STREAM, "fp32")
    stream = CoreAiStream(out / COREAI_MODEL, manifest)
    for sinks in (0, 4):
        expected = ViewOracle(checkpoint, view_models.STREAM, sinks).run(IDS)
        found = {piece.stop: stream.feed(IDS[piece], piece.start, sinks) for piece in pieces(len(IDS), RAGGED)}
        worst = max(np.abs(row - expected[count - 1]).max() for count, row in found.items())
        assert worst <= TOLERANCE * np.std(expected), f"{sinks} sinks: max {worst:.1e}"
    stream.close()


@pytest.mark.slow
def test_the_real_model_is_the_oracle_over_two_laps(smollm2, tmp_path):
    pytest.importorskip("coreai_torch", reason="Apple's coreai-torch is not installed: pip install 'edgesink[coreai]'")
    stream = StreamSpec(sinks=4, window=28, max_sinks=8, chunk=8)
    export(smollm2, tmp_path / "bundle", "coreai", stream, "fp32")
    report, *_ = verify_bundle(tmp_path / "bundle", smollm2, tokens=2 * stream.rows + 10)
    assert all(stage.compared for stage in report.stages.values())
    assert report.whole.max_abs <= TOLERANCE, f"max {report.whole.max_abs:.1e}"


def test_the_bundle_says_what_it_is(bundle):
    out, manifest = bundle
    assert manifest.state_dtype == "float32"
    assert "verified in Apple's interpreter" in (out / "README.md").read_text()
    manifest.check_files(out)


def test_what_core_ai_cannot_do_is_refused(toy, tmp_path):
    with pytest.raises(BadOption, match="int4"):
        export(toy.path, tmp_path / "bundle", "coreai", STREAM, "int4")
    assert list(tmp_path.iterdir()) == []


def test_without_apples_packages_the_remedy_is_named(toy, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "coreai_torch", None)
    with pytest.raises(MissingPackage, match="coreai"):
        export(toy.path, tmp_path / "bundle", "coreai", STREAM, "fp32")
    assert list(tmp_path.iterdir()) == []
