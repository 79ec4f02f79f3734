"""Keys with large biases, which the kernels hold in float32: in which layers, and what is done with such a state."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from edgesink.errors import BadBundle
from edgesink.export import states
from edgesink.export.recipe import Recipe
from edgesink.manifest import KERNELS_GRAPH, Manifest, replace_manifest
from edgesink.reference import Reference
from edgesink.runtime import kernels
from edgesink.runtime.ring_state import RingState
from edgesink.runtime.session import load
from edgesink.spec import StreamSpec
from edgesink.verify.held_model import held_model

needs_kernels = pytest.mark.skipif(
    not kernels.available_kernels(), reason="no C compiler when edgesink was installed, or another processor"
)

SPEC = StreamSpec(3, 13, 8, 5)  # 20 rows
IDS = np.random.default_rng(0).integers(2, 256, 100)
SLOW = [6, 7, 14, 15]  # dimensions of a head of the pairs that turn least


@pytest.fixture(scope="module")
def biased(toy_maker, tmp_path_factory):
    """A toy of three layers: biases of keys reach 16 in the first, 300.3 in the second, -16.5 in the last."""
    toy = toy_maker(tmp_path_factory.mktemp("biased"), "qwen2", rope_theta=1e6)
    file = toy.path / "model.safetensors"
    tensors = load_file(file)
    for layer, bias in enumerate([16.0, 300.3, -16.5]):
        keys = np.zeros((2, 16), np.float32)
        keys[:, SLOW if layer == 1 else [3]] = bias
        tensors[f"model.layers.{layer}.self_attn.k_proj.bias"] = keys.reshape(-1)
    save_file(tensors, file, {"format": "pt"})
    return toy


@pytest.fixture(scope="module")
def bundle(biased, tmp_path_factory):
    return biased.bundle(tmp_path_factory.mktemp("wide") / "bundle", SPEC, "int8")


def test_keys_of_layers_with_a_bias_beyond_16_are_float32_in_the_kernels_graph_and_nothing_else(bundle):
    assert Manifest.read(bundle).float32_in_kernels == ("key_1", "key_2")
    graph = onnx.load(bundle / KERNELS_GRAPH, load_external_data=False).graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.output]}
    single, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    found = {name: kind for name, kind in types.items() if name.startswith(("key", "value"))}
    assert found == {
        name.format(layer): single if name.startswith("key") and layer else half
        for layer in range(3)
        for name in ("key_{}", "value_{}", "key_{}_out", "value_{}_out")
    }


@pytest.mark.parametrize(
    ("target", "precision"), [("onnx", "fp32"), ("onnx", "fp16"), ("coreml", "int8"), ("coreai", "fp16")]
)
def test_what_has_no_graph_for_kernels_says_nothing_of_them(target, precision):
    model = SimpleNamespace(weights=("k_bias",), layers=1, as_data=lambda: {"head_dim": 64})
    recipe = Recipe.fitted(target, None, precision)
    assert states.float32_in_kernels(model, recipe, lambda name: np.full(64, 1000.0)) is None


def test_a_model_without_biases_says_nothing_of_them(toy, tmp_path):
    manifest = Manifest.read(toy.bundle(tmp_path / "bundle", SPEC, "int8"))
    assert manifest.float32_in_kernels is None
    assert "float32_in_kernels" not in manifest.to_json()
    assert 2 * manifest.kernels_state_bytes == manifest.state_bytes


@needs_kernels
def test_the_state_is_counted_as_it_is_held(bundle, command):
    heads, rows, dim = 2, 20, 16
    held = heads * rows * dim * (4 * 2 + 2 * 4)  # two layers' keys in float32; keys of one and all values in float16
    stream = load(bundle)
    assert stream.state_bytes == Manifest.read(bundle).kernels_state_bytes == held == 10_240
    assert load(bundle, provider="plain").state_bytes == heads * rows * dim * 6 * 4
    assert "with them 0.0 MB of state, keys of 2 layers in float32\n" in command("inspect", bundle)[1]


@needs_kernels
def test_the_kernels_are_the_oracle_where_float16_would_not_be(biased, bundle, tmp_path, monkeypatch):
    reference = Reference(held_model(biased.path, "int8"), SPEC.sinks, SPEC.window)
    expected = np.stack([reference.step(int(token)) for token in IDS])
    monkeypatch.setattr(states, "LARGEST_KEY_BIAS", np.inf)
    narrow = biased.bundle(tmp_path / "narrow", SPEC, "int8")
    found = {name: differences(folder, expected) for name, folder in {"wide": bundle, "narrow": narrow}.items()}
    told = {name: f"max |Δ| {error.max():.1e}, mean {error.mean():.1e}" for name, error in found.items()}
    assert found["wide"].max() <= 0.1, told  # found 0.032
    assert found["narrow"].max() > 0.2, told  # found 0.40


def differences(bundle, expected: np.ndarray) -> np.ndarray:
    stream = load(bundle)
    return np.abs(np.stack([stream.step(int(token)) for token in IDS]) - expected)


@needs_kernels
def test_a_session_gives_back_the_very_stream_and_goes_to_plain_operators_and_back(bundle, tmp_path):
    ours = load(bundle)
    ours.prefill(IDS[:60])
    ours.save(tmp_path / "session")
    expected = ours.prefill(IDS[60:70])
    again = load(bundle)
    again.restore(tmp_path / "session")
    assert (again.prefill(IDS[60:70]) == expected).all()
    plain = load(bundle, provider="plain")
    plain.restore(tmp_path / "session")
    plain.save(tmp_path / "plain")
    back = load(bundle)
    back.restore(tmp_path / "plain")
    assert (back.prefill(IDS[60:70]) == expected).all(), "nothing was rounded on the way"
    assert np.corrcoef(plain.prefill(IDS[60:70]), expected)[0, 1] > 0.99


@needs_kernels
def test_a_stream_goes_back_and_is_copied_and_repinned_with_the_very_keys(bundle):
    stream, straight = load(bundle), load(bundle)
    straight.prefill(IDS[:50])
    expected = straight.prefill(IDS[50:60])
    stream.prefill(IDS[:50])
    stream.prefill(IDS[70:75])
    stream.rewind(5)
    assert (stream.prefill(IDS[50:60]) == expected).all()
    snapshot = stream.snapshot()
    after = stream.step(5)
    stream.prefill(IDS[:40])
    stream.return_to(snapshot)
    assert (stream.step(5) == after).all()
    stream.return_to(snapshot)
    before = stream.repin(IDS[90:93])
    assert (stream.step(5) != after).any()
    stream.return_to(snapshot)
    stream.repin(IDS[:3])
    assert (stream.step(5) == after).all(), "the rows of a stream that began so"
    assert {name: rows.dtype for name, rows in before.rows.items() if name in ("key_0", "key_1", "value_1")} == {
        "key_0": np.float16, "key_1": np.float32, "value_1": np.float16,
    }  # fmt: skip


def test_a_graph_with_states_of_another_type_is_refused(bundle):
    manifest = Manifest.read(bundle)
    given = [SimpleNamespace(name=s.name, shape=list(s.shape), type="tensor(float)") for s in manifest.states]
    given[3].type = "tensor(double)"
    session = SimpleNamespace(get_inputs=lambda: given)
    with pytest.raises(BadBundle, match=r"value_1 is tensor\(double\)"):
        RingState(session, None, manifest, "cpu")


def test_a_manifest_that_names_no_state_is_refused(bundle, tmp_path):
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    with pytest.raises(BadBundle, match="float32_in_kernels names key_7"):
        replace_manifest(folder, dataclasses.replace(Manifest.read(folder), float32_in_kernels=("key_7",)))
