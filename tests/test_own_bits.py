"""Real GGUF files in bundles: as many bytes as they have, and their very logits. Minutes each: `-m slow -s`."""

from pathlib import Path

import numpy as np
import pytest
import real_models
from gguf import GGUFReader

from edgesink.export.bundle import export
from edgesink.manifest import Manifest
from edgesink.reference import Reference, load_model
from edgesink.runtime import kernels
from edgesink.runtime.session import load
from edgesink.runtime.tokenizer import Tokenizer
from edgesink.spec import StreamSpec

pytestmark = pytest.mark.slow

STREAM = StreamSpec.fitted(window=60)
TOKENS = 370  # more than 300 past the capacity
MODELS = ["qwen-0.5b", "gemma3-270m", "qwen-1.5b"]
LARGEST = 0.1  # |Δlogit| of any token


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    """(the GGUF file, its bundle, its manifest), one at a time."""
    bundle = tmp_path_factory.mktemp(request.param) / "bundle"
    path = real_models.fetch(request.param)
    return path, bundle, export(path, bundle, "onnx", STREAM, "int4")


def visible_bytes(manifest: Manifest) -> int:
    """Of the rows of keys and values that a token sees, and writes, as the kernels hold them."""
    rows = {place: view.capacity for place, view in enumerate(manifest.views)}
    items = {state.name: 4 if state.name in (manifest.float32_in_kernels or ()) else 2 for state in manifest.states}
    return sum(items[state.name] * state.shape[1] * rows[state.view] * state.shape[3] for state in manifest.states)


def test_a_step_reads_what_the_file_holds_and_the_state_that_it_sees(model):
    path, bundle, manifest = model
    tensors = sum(int(tensor.n_bytes) for tensor in GGUFReader(path).tensors)
    read, state = manifest.step_weight_bytes, visible_bytes(manifest)
    whole = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    print(f"\n{path.name}: tensors {tensors}, read a step {read} (x {read / tensors:.4f}) and {state} of state; "
          f"bundle {whole}, file {path.stat().st_size} (x {whole / path.stat().st_size:.4f})")  # fmt: skip
    assert read + state <= 1.03 * tensors + state
    assert whole <= 1.05 * path.stat().st_size


@pytest.mark.skipif(not kernels.available_kernels(), reason="no C compiler when edgesink was installed")
def test_logits_are_those_of_the_file_past_the_capacity(model, prose):
    path, bundle, manifest = model
    assert "rounded" not in manifest.weights
    ids = Tokenizer.of_bundle(bundle).encode(prose, special=True)[:TOKENS]
    reference = Reference(load_model(path), STREAM.sinks, STREAM.window)
    expected = np.stack([reference.step(int(token)) for token in ids])
    for name, options in {"kernels": {}, "standard operators": {"kernels": False}}.items():
        stream = load(bundle, **options)
        found = np.stack([stream.step(int(token)) for token in ids])
        difference, agreed = np.abs(found - expected), found.argmax(1) == expected.argmax(1)
        print(f"\n{path.name}, {name}: {stream.evicted} tokens past the capacity, max {difference.max():.3f} at token "
              f"{difference.max(1).argmax()}, mean {difference.mean():.4f}, argmax {agreed.mean():.4f}")  # fmt: skip
        if name == "kernels":
            assert difference.max() <= LARGEST
            assert agreed.mean() >= 0.98
        else:
            assert agreed.mean() >= 0.85, "activations are rounded to 8 bits"


@pytest.fixture(scope="module")
def prose() -> str:
    return (Path(__file__).parent / "data" / "persuasion_opening.txt").read_text(encoding="utf-8")
