"""The table of targets: complete, and what a target cannot do is refused in the words of the command line."""

import json
import typing

import pytest
from toy_specs import llama_spec

from edgesink.errors import BadOption
from edgesink.export.bundle_readme import VERIFICATION
from edgesink.export.recipe import Recipe
from edgesink.manifest import STATE_ITEM_BYTES
from edgesink.spec import StreamSpec
from edgesink.targets import PRECISIONS, ROWS, Target
from edgesink.verify.runners import RUNNERS

STREAM = StreamSpec(4, 12, 8, 5)
GROWING = StreamSpec(4, 12, 8, 5, "original")


def test_every_target_has_a_row_a_runner_and_a_paragraph():
    assert set(ROWS) == set(RUNNERS) == set(VERIFICATION) == set(typing.get_args(Target))
    assert {precision for row in ROWS.values() for precision in row.states} == set(PRECISIONS)
    assert {dtype for row in ROWS.values() for dtype in row.states.values()} == set(STATE_ITEM_BYTES)


@pytest.mark.parametrize(
    ("target", "chunk", "precisions", "kv_write", "int4_vocabulary"),
    [
        ("onnx", 64, ["fp32", "fp16", "int8", "int4"], None, 8),
        ("coreml", 32, ["fp16", "int8", "int4", "pal4"], "slice", 4),
        ("coreai", 32, ["fp32", "fp16"], None, None),
    ],
)
def test_what_is_left_open_is_the_targets_default(target, chunk, precisions, kv_write, int4_vocabulary):
    for precision in precisions:
        recipe = Recipe.fitted(target, precision=precision)
        bits = int4_vocabulary if precision == "int4" else 8
        assert recipe == Recipe(target, StreamSpec(chunk=chunk), precision, kv_write, bits, 1)
    for precision in set(PRECISIONS) - set(precisions):
        with pytest.raises(BadOption, match=f"--precision {precision} for target {target}"):
            Recipe.fitted(target, precision=precision)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(target="tflite"), "--target tflite; expected onnx, coreml or coreai"),
        (dict(target="coreai", precision="int8"), "--precision int8 for target coreai; expected fp32 or fp16"),
        (dict(target="coreml", stream=GROWING), "--positions original for target coreml; expected cache"),
        (dict(target="coreai", precision="fp16", stream=GROWING), "--positions original for target coreai"),
        (dict(kv_write="slice"), "--kv-write for target onnx; expected target coreml; leave it out"),
        (dict(target="coreml", kv_write="scatter"), "--kv-write scatter; expected slice, blend or host"),
        (dict(vocabulary_bits=6), "--vocabulary-bits 6; expected 4 or 8"),
        (dict(vocabulary_bits=0), "--vocabulary-bits 0; expected 4 or 8"),
        (dict(precision="fp16", vocabulary_bits=4), "--vocabulary-bits 4 for precision fp16"),
        (dict(parts=2), "--parts 2 for target onnx; expected target coreml"),
    ],
    ids=lambda value: json.dumps(value, default=str) if isinstance(value, dict) else "",
)
def test_what_a_target_cannot_do_is_refused(arguments, message):
    with pytest.raises(BadOption) as refusal:
        Recipe.fitted(**arguments)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("parts", [0, -1, 4])
def test_a_model_is_cut_between_its_layers_only(parts):
    with pytest.raises(BadOption, match=f"--parts {parts}; expected 1 to 3"):
        Recipe.fitted("coreml", parts=parts).check_model(llama_spec(layers=3))
    Recipe.fitted("coreml", parts=3).check_model(llama_spec(layers=3))
