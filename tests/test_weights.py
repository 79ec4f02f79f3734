"""The rule of precision: the form of each weight, what is carried over, and what it will weigh."""

import dataclasses
import warnings

import numpy as np
import pytest

from edgesink.export.blocks import Blocks
from edgesink.export.bundle import write_bundle
from edgesink.export.checkpoint import open_checkpoint, weight_names, weight_shape
from edgesink.export.estimate import bundle_bytes, scratch_bytes
from edgesink.export.palettize import Palette
from edgesink.export.recipe import Recipe
from edgesink.export.weights import Form, counted, form_of, held_weights
from edgesink.spec import StreamSpec
from edgesink.targets import PRECISIONS, ROWS

STREAM = StreamSpec(4, 28, 16, 8)
PAIRS = [(target, precision) for target, row in ROWS.items() for precision in row.states]


@pytest.fixture(scope="module")
def checkpoint(toy):
    return open_checkpoint(toy.path)


@pytest.fixture(scope="module")
def larger(toy_maker, tmp_path_factory):
    """Large enough for its weights to outweigh the page that every tensor is padded to."""
    return toy_maker(
        tmp_path_factory.mktemp("larger"), vocab_size=2048, hidden_size=512, intermediate_size=1024,
        num_attention_heads=8, num_key_value_heads=4, head_dim=64,
    ).path  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "matrix", "vocabulary"),
    [
        ("fp32", Form("floats", 32), Form("floats", 32)),
        ("fp16", Form("floats", 16), Form("floats", 16)),
        ("int8", Form("blocks", 8), Form("blocks", 4)),
        ("int4", Form("blocks", 4), Form("blocks", 4)),
        ("pal4", Form("palette", 4), Form("blocks", 4)),
    ],
)
def test_the_form_follows_from_shape_place_and_precision(checkpoint, precision, matrix, vocabulary):
    forms = {name: form_of(name, checkpoint.model, precision, 4) for name in weight_names(checkpoint.model)}
    vectors = {name for name in forms if len(weight_shape(checkpoint.model, name)) == 1}
    assert {forms[name] for name in vectors} == {Form("floats", 32)}
    assert forms["embedding"] == vocabulary
    assert {form for name, form in forms.items() if name not in vectors | {"embedding"}} == {matrix}


def test_a_vector_is_never_quantised_whatever_its_name(checkpoint, monkeypatch):
    monkeypatch.setattr("edgesink.export.weights.weight_shape", lambda model, name: (64,))
    assert form_of("layers.0.q_bias", checkpoint.model, "int4", 8) == Form("floats", 32)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_held_in_their_form(checkpoint, precision):
    held = held_weights(checkpoint, precision)
    for name in ("embedding", "norm", "layers.1.mlp_norm", "layers.1.down"):
        form, weight = form_of(name, checkpoint.model, precision, 8), held(name)
        kind = {"floats": np.ndarray, "blocks": Blocks, "palette": Palette}[form.kind]
        assert type(weight) is kind
        assert form.bits == (8 * weight.itemsize if isinstance(weight, np.ndarray) else weight.bits)


def test_progress_counts_each_weight_once(checkpoint):
    told = []
    weights = counted(held_weights(checkpoint, "fp32"), 2, lambda *what: told.append(what))
    for name in ("norm", "embedding", "norm"):
        weights(name)
    assert told == [(1, 2, "norm"), (2, 2, "embedding")]


def off(path, recipe, out) -> float:
    """How far the estimate is from the bundle's real size, of which it is a share."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        write_bundle(path, out, recipe)
    real = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return bundle_bytes(open_checkpoint(path), recipe) / real - 1


@pytest.mark.parametrize(("target", "precision"), PAIRS)
def test_the_estimate_of_disk_is_near_the_truth(larger, tmp_path, target, precision):
    if target == "coreai":
        pytest.importorskip("coreai_torch", reason="Apple's packages are not installed")
    recipe = Recipe.fitted(target, STREAM, precision)
    assert abs(off(larger, recipe, tmp_path / "bundle")) <= 0.15


@pytest.mark.parametrize(("target", "bits"), [("onnx", 4), ("coreml", 8)])
def test_the_estimate_follows_vocabulary_bits(larger, tmp_path, target, bits):
    recipe = Recipe.fitted(target, STREAM, "int4", vocabulary_bits=bits)
    assert abs(off(larger, recipe, tmp_path / "bundle")) <= 0.15
    model, other = open_checkpoint(larger), dataclasses.replace(recipe, vocabulary_bits=12 - bits)
    difference = bundle_bytes(model, recipe) - bundle_bytes(model, other)
    assert difference == (bits - (12 - bits)) * 2048 * 512 // 8


def test_the_estimate_counts_a_tied_embedding_in_both_ends_of_a_cut_model(larger):
    model = open_checkpoint(larger)
    whole, cut = (Recipe.fitted("coreml", STREAM, "fp16", parts=parts) for parts in (1, 2))
    assert bundle_bytes(model, cut) - bundle_bytes(model, whole) == 2 * 2048 * 512
    assert scratch_bytes(model, cut) - scratch_bytes(model, whole) == 2 * 2048 * 512


@pytest.mark.slow
@pytest.mark.parametrize(("target", "precision"), PAIRS)
def test_the_estimate_of_disk_is_near_the_truth_of_a_real_model(smollm2, tmp_path, target, precision):
    """Its weights are in 4 bits in the file, and carried over where 8 are asked for."""
    if target == "coreai":
        pytest.importorskip("coreai_torch", reason="Apple's packages are not installed")
    recipe = Recipe.fitted(target, StreamSpec.fitted(window=252, chunk=16), precision)
    assert abs(off(smollm2, recipe, tmp_path / "bundle")) <= 0.15
