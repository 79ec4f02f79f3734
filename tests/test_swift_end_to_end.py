"""EdgesinkKit runs a real bundle on Linux and gives the Python runtime's tokens, one by one."""

import importlib.util
import json
from pathlib import Path

import pytest

import edgesink
from edgesink.runtime.session import Stream
from edgesink.runtime.tokenizer import Tokenizer
from edgesink.spec import StreamSpec

HERE = Path(__file__).parent
PENALISED = {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 11}


def load(name: str):
    location = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


swift, golden = load("swift_cli"), load("make_golden_stream")


@pytest.fixture(scope="module")
def bundle(smollm2_bundles) -> Path:
    """SmolLM2-135M that sees 32 tokens: a hundred wrap its ring several times."""
    return smollm2_bundles("int4", StreamSpec.fitted(window=28))


def plain(bundle: Path, sinks: int | None = None) -> Stream:
    """The graph that Swift runs too."""
    return edgesink.load(bundle, provider="plain", sinks=sinks)


def generate(bundle: Path, tmp_path: Path, ids: list[int], *options: object) -> dict:
    file = tmp_path / "ids.json"
    file.write_text(json.dumps(ids))
    return json.loads(swift.run("generate", bundle, "--ids-file", file, "--json", *options))


def opening(bundle: Path, tokens: int) -> list[int]:
    text = (HERE / "data" / "persuasion_opening.txt").read_text(encoding="utf-8")
    return Tokenizer.of_bundle(bundle).encode(text)[:tokens]


def test_a_hundred_greedy_tokens_are_the_python_runtimes(bundle, tmp_path):
    expected = golden.golden_stream(bundle, 100)
    got = generate(bundle, tmp_path, expected["prompt"], "--max-new-tokens", 100, "--ignore-end")
    assert got["ids"] == expected["expected"]
    assert got["position"] == len(expected["prompt"]) + 99  # the last one is not fed: nobody asked for the next
    assert got["forgotten"] == got["position"] - 32


def test_sampled_text_after_a_prompt_longer_than_the_ring_is_the_python_runtimes(bundle, tmp_path):
    ids = opening(bundle, 150)
    expected = list(plain(bundle).generate(ids, 60, **PENALISED))
    options = [text for name, value in PENALISED.items() for text in (f"--{name.replace('_', '-')}", value)]
    got = generate(bundle, tmp_path, ids, "--max-new-tokens", 60, *options)
    assert got["ids"] == [token.id for token in expected]
    assert got["text"] == "".join(token.text for token in expected)


def test_a_session_goes_from_python_to_swift_and_back(bundle, tmp_path):
    ids = opening(bundle, 90)
    stream = plain(bundle, sinks=2)
    stream.prefill(ids[:50])
    stream.save(tmp_path / "python.session")
    got = generate(
        bundle, tmp_path, ids[50:], "--max-new-tokens", 5, "--ignore-end",
        "--restore", tmp_path / "python.session", "--save", tmp_path / "swift.session",
    )  # fmt: skip
    stream.restore(tmp_path / "swift.session")
    assert (stream.position, stream.sinks) == (94, 2)
    assert got["position"] == 94
    after = stream.step(1)

    again = plain(bundle, sinks=2)
    again.prefill(ids[:50])
    again.prefill(ids[50:])
    again.prefill(got["ids"][:4])
    assert again.step(1).argmax() == after.argmax()


def test_a_stop_string_and_the_number_of_sinks_are_kept(bundle, tmp_path):
    ids = opening(bundle, 40)
    expected = list(plain(bundle, sinks=1).generate(ids, 60, stop=[" the"]))
    got = generate(bundle, tmp_path, ids, "--max-new-tokens", 60, "--stop", " the", "--sinks", 1)
    assert got["text"] == "".join(token.text for token in expected)
    assert got["ids"] == [token.id for token in expected]


def test_inspect_shows_what_python_knows_of_the_bundle(bundle):
    facts = json.loads(swift.run("inspect", bundle, "--json"))
    stream = plain(bundle)
    assert facts["state_bytes"] == stream.state_bytes
    assert facts["fingerprint"] == stream.manifest.fingerprint
    assert facts["capacity"] == stream.capacity


@pytest.mark.slow
def test_two_thousand_greedy_tokens_are_the_python_runtimes(smollm2_bundles, tmp_path):
    bundle = smollm2_bundles("int4", StreamSpec.fitted(window=252))
    expected = golden.golden_stream(bundle, 2000)
    got = generate(bundle, tmp_path, expected["prompt"], "--max-new-tokens", 2000, "--ignore-end")
    assert got["ids"] == expected["expected"]


@pytest.mark.slow
def test_two_thousand_sampled_tokens_are_the_python_runtimes(smollm2_bundles, tmp_path):
    """Greedy text soon repeats itself; this does not, so it tells more."""
    bundle = smollm2_bundles("int4", StreamSpec.fitted(window=252))
    ids = opening(bundle, 600)
    expected = golden.sampled(bundle, ids, 2000, **PENALISED)
    options = [text for name, value in PENALISED.items() for text in (f"--{name.replace('_', '-')}", value)]
    got = generate(bundle, tmp_path, ids, "--max-new-tokens", 2000, "--ignore-end", *options)
    assert len(set(expected)) > 300
    assert got["ids"] == expected
