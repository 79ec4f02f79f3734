"""Rounding with regard to what goes into a product: what is measured, what it gains, where it is refused."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from edgesink.errors import BadOption
from edgesink.export import calibrate
from edgesink.export.bundle import export
from edgesink.export.checkpoint import open_checkpoint
from edgesink.export.quantize import quantize
from edgesink.manifest import ONNX_DATA, Manifest

PROJECTIONS = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}  # fmt: skip


def energies_by_transformers(path, pieces) -> dict[str, np.ndarray]:
    """Mean square of every input of every linear module, over pieces that are each read alone."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    seen: dict[str, list[torch.Tensor]] = {}

    def watch(name):
        return lambda module, inputs: seen.setdefault(name, []).append(inputs[0][0])

    model.lm_head.register_forward_pre_hook(watch("head"))
    for number, layer in enumerate(model.model.layers):
        for name, place in PROJECTIONS.items():
            layer.get_submodule(place).register_forward_pre_hook(watch(f"layers.{number}.{name}"))
    with torch.inference_mode():
        for piece in pieces:
            model(torch.from_numpy(piece)[None])
    return {name: torch.cat(inputs).square().mean(0).numpy() for name, inputs in seen.items()}


@pytest.mark.parametrize("piece", [64, 10])
def test_what_goes_into_every_product_is_what_transformers_feeds_it(toy, monkeypatch, piece):
    monkeypatch.setattr(calibrate, "PIECE", piece)
    checkpoint = open_checkpoint(toy.path)
    ids = np.random.default_rng(1).integers(0, checkpoint.model.vocab, 50)
    found = calibrate.input_energies(checkpoint, ids)
    expected = energies_by_transformers(toy.path, np.array_split(ids, 5 if piece == 10 else 1))
    if checkpoint.model.tied:
        expected["embedding"] = expected.pop("head")
    assert found.keys() == expected.keys()
    for name, energy in found.items():
        np.testing.assert_allclose(energy, expected[name], rtol=1e-3, atol=1e-7, err_msg=name)


def test_a_product_errs_less_where_its_inputs_are_known():
    random = np.random.default_rng(2)
    weight = random.normal(size=(64, 128)).astype(np.float32)
    inputs = random.normal(size=(500, 128)).astype(np.float32) * np.exp(random.normal(size=128, scale=1.5))

    def error(energy):
        return np.square(inputs @ (quantize(weight, 4, energy).dequantized() - weight).T).sum()

    assert error(np.square(inputs).mean(0)) < 0.85 * error(None)
    assert error(np.zeros(128, np.float32)) == error(None)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a b c " * 100)
    return path


def test_an_export_is_calibrated_with_the_beginning_of_a_text(toy, tmp_path, text, command):
    status, _, err = command("export", toy.path, "--out", tmp_path / "bundle", "--window", 60, "--calibrate", text)
    assert (status, "calibrated" in err) == (0, True)
    plain = export(toy.path, tmp_path / "plain", "onnx")
    assert Manifest.read(tmp_path / "bundle").weights == f"{plain.weights}, calibrated"
    assert (tmp_path / "plain" / ONNX_DATA).read_bytes() != (tmp_path / "bundle" / ONNX_DATA).read_bytes()


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
def test_other_precisions_are_not_calibrated(toy, tmp_path, precision):
    with pytest.raises(BadOption, match=f"--calibrate with --precision {precision}; expected int4"):
        export(toy.path, tmp_path / "bundle", "onnx", precision=precision, calibration=np.arange(9))
    assert not (tmp_path / "bundle").exists()


def test_an_empty_text_calibrates_nothing(toy, tmp_path):
    with pytest.raises(BadOption, match="an empty text"):
        export(toy.path, tmp_path / "bundle", "onnx", calibration=np.empty(0, np.int64))


def test_what_a_file_quantised_itself_is_not_calibrated(smollm2, tmp_path):
    with pytest.raises(BadOption, match="kept as they are; expected a checkpoint in floats"):
        export(smollm2, tmp_path / "bundle", "onnx", calibration=np.arange(9))
