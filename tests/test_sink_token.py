"""Models trained with a sink: a token that every stream begins with, or a softmax that may look at nothing."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from edgesink import load
from edgesink.cli import app
from edgesink.errors import BadCheckpoint, BadOption
from edgesink.evaluate.checkpoint_text import pieces_of
from edgesink.export.bundle import export
from edgesink.export.checkpoint import open_checkpoint
from edgesink.manifest import GOLDEN_STREAM, KERNELS_GRAPH, Manifest
from edgesink.reference import Reference
from edgesink.runtime.chat import Chat
from edgesink.spec import StreamSpec
from edgesink.verify.bundle import verify_bundle
from edgesink.verify.compare import log_softmax

SPEC = StreamSpec(1, 15, 8, 5)
SINK = 7
LONG = [(5 + 31 * i) % 250 + 2 for i in range(120)]  # many times round the ring


def declaring(source, folder, **fields):
    """A copy of a checkpoint whose config.json has these fields too."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


@pytest.fixture(scope="module")
def checkpoint(toy, tmp_path_factory):
    return declaring(toy.path, tmp_path_factory.mktemp("sink") / "checkpoint", sink_token_id=SINK)


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("sink") / "bundle"
    export(checkpoint, out, "onnx", SPEC, "fp32")
    return out


@pytest.fixture(scope="module")
def plain_bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("plain") / "bundle", SPEC)


def test_every_stream_begins_with_the_sink_token_and_keeps_it(bundle, plain_bundle):
    primed, plain = load(bundle), load(plain_bundle)
    for _ in range(2):  # and after a reset once more
        assert np.array_equal(primed.prefill(LONG), plain.prefill([SINK, *LONG]))
        assert primed.position == plain.position == len(LONG) + 1
        primed.reset()
        plain.reset()
    primed.prefill(LONG[:3])
    plain.prefill([SINK, *LONG[:3]])
    assert np.array_equal(primed.step(9), plain.step(9)), "only the first feeding is primed"


def test_a_session_taken_up_again_is_not_primed_again(bundle, tmp_path):
    stream = load(bundle)
    stream.prefill(LONG)
    stream.save(tmp_path / "talk")
    expected = stream.step(9)
    other = load(bundle)
    other.restore(tmp_path / "talk")
    assert np.array_equal(other.step(9), expected)


def test_a_pinned_system_prompt_has_the_sink_token_in_front(bundle, toy, tmp_path):
    export(toy.path, tmp_path / "roomy", "onnx", StreamSpec(4, 60, 40, 8), "fp32", sink_token=SINK)
    stream = load(tmp_path / "roomy")
    chat = Chat(stream, "no", pin="system")
    prompt = "<begin>system: no<end>"
    assert stream.sinks == 1 + len(stream.tokenizer.encode(prompt + "<begin>user: "))
    list(chat.answer("hi", max_new_tokens=1))


def test_the_option_outweighs_the_config_and_is_checked(checkpoint, toy, tmp_path):
    assert open_checkpoint(checkpoint).sink_token_id == SINK
    assert open_checkpoint(toy.path).sink_token_id is None
    export(checkpoint, tmp_path / "other", "onnx", SPEC, "fp32", sink_token=3)
    assert Manifest.read(tmp_path / "other").prefix == (3,)
    with pytest.raises(BadOption, match="--sink-token 258; expected 0 to 257"):
        export(toy.path, tmp_path / "none", "onnx", SPEC, "fp32", sink_token=258)


@pytest.mark.parametrize("value", [-1, 258, "7", True, [7]])
def test_a_declared_sink_token_that_is_no_id_is_refused(toy, tmp_path, value):
    with pytest.raises(BadCheckpoint, match="sink_token_id"):
        open_checkpoint(declaring(toy.path, tmp_path / "bad", sink_token_id=value))


def test_verify_feeds_the_oracle_the_sink_token_and_leaves_it_out_of_the_golden_prompt(checkpoint, bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    (report,) = verify_bundle(copy, checkpoint)
    assert not report.failures
    golden = json.loads((copy / GOLDEN_STREAM).read_text())
    stream = load(copy, sinks=golden["sinks"])
    logits = stream.prefill(golden["prompt"])
    for expected in golden["expected"]:
        assert logits.argmax() == expected
        logits = stream.step(expected)


def test_a_measurement_reads_the_text_behind_the_sink_token(checkpoint, bundle, tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("a text that is read, word by word.\n" * 9)
    runner = CliRunner()
    command = ["eval", "ppl", str(bundle), "--text", str(book), "--modes", "sinks,recompute", "--sinks", "1"]
    result = runner.invoke(app, [*command, "--tokens", "200", "--stride", "20", "--json"])
    assert result.exit_code == 0, result.output
    curves = {curve["mode"]: curve for curve in json.loads(result.stdout)["curves"]}
    ids = [SINK, *load(bundle).tokenizer.encode(book.read_text())][:201]
    reference = Reference(checkpoint, SPEC.sinks, SPEC.window)
    logits = [reference.step(token) for token in ids[:-1]]
    nats = [-log_softmax(row)[target] for row, target in zip(logits, ids[1:], strict=True)]
    assert curves["sinks"]["perplexity"] == pytest.approx(float(np.exp(np.mean(nats))), rel=1e-4)
    for piece in pieces_of(checkpoint, [book], 10):
        assert piece[0] == SINK
        assert len(piece) == 10


def test_inspect_names_the_sink_token(bundle):
    assert "begins    with token 7" in CliRunner().invoke(app, ["inspect", str(bundle)]).stdout


# ---- the zero sink


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_softmax_off_by_one_is_exported_as_it_is(toy, tmp_path, precision):
    checkpoint = declaring(toy.path, tmp_path / "zero", softmax_off_by_one=True)
    out = tmp_path / "bundle"
    manifest = export(checkpoint, out, "onnx", SPEC, precision)
    assert KERNELS_GRAPH not in {file.path for file in manifest.files}
    reports = verify_bundle(out, checkpoint, torch_type="float32")
    assert [report.failures for report in reports] == [[], []]
    plain = Reference(toy.path, SPEC.sinks, SPEC.window).prefill(LONG[:9])
    assert np.abs(load(out).prefill(LONG[:9]) - plain).max() > 0.01, "it differs from the usual softmax"


def test_a_head_that_looks_at_nothing_adds_nothing(toy, tmp_path):
    """By hand: keys of -∞ scores leave weights of zero, and equal scores of 0 share with the row of zeros."""
    import torch

    from edgesink.off_by_one import off_by_one_attention

    class OneGroup:
        num_key_value_groups = 1

    key = value = torch.tensor([[[[1.0], [1.0], [1.0]]]])  # [1, 1, 3, 1]
    context, weights = off_by_one_attention(OneGroup(), torch.zeros(1, 1, 1, 1), key, value, None, 1.0)
    assert torch.allclose(weights, torch.full((1, 1, 1, 3), 0.25))
    assert torch.allclose(context, torch.tensor(0.75))
    _, weights = off_by_one_attention(OneGroup(), torch.full((1, 1, 1, 1), -99.0), key, value, None, 1.0)
    assert weights.sum() < 1e-6


@pytest.mark.parametrize("target", ["coreml", "coreai"])
def test_a_target_without_it_is_refused(toy, tmp_path, target):
    if target == "coreai":
        pytest.importorskip("coreai_torch", reason="pip install 'edgesink[coreai]'")
    checkpoint = declaring(toy.path, tmp_path / "zero", softmax_off_by_one=True)
    with pytest.raises(BadOption, match=f"softmax off by one for target {target}; expected target onnx"):
        export(checkpoint, tmp_path / "out", target, precision="fp16")
