"""EdgesinkKit runs a real bundle on Linux and gives the Python runtime's tokens, one by one."""

import json
from pathlib import Path

import make_golden_stream as golden
import numpy as np
import pytest
import swift_cli as swift

import edgesink
from edgesink.runtime.session import Stream
from edgesink.runtime.tokenizer import Tokenizer
from edgesink.spec import StreamSpec

HERE = Path(__file__).parent
PENALISED = {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 11}


@pytest.fixture(scope="module")
def bundle(smollm2_bundles) -> Path:
    """SmolLM2-135M that sees 32 tokens: a hundred wrap its ring several times."""
    return smollm2_bundles("int4", StreamSpec.fitted(window=28))


def plain(bundle: Path, sinks: int | None = None) -> Stream:
    """The graph that Swift runs too."""
    return edgesink.load(bundle, provider="plain", sinks=sinks)


NEUTRAL = {"--temperature": 0, "--top-k": 0, "--top-p": 1, "--min-p": 0, "--repetition-penalty": 1}


def generate(bundle: Path, tmp_path: Path, ids: list[int], *options: object) -> dict:
    """What is not said is as in Python's `Stream.generate`, and not the model's own."""
    file = tmp_path / "ids.json"
    file.write_text(json.dumps(ids))
    neutral = [word for name, value in NEUTRAL.items() if name not in options for word in (name, value)]
    return json.loads(swift.run("generate", bundle, "--ids-file", file, "--json", *options, *neutral))


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


TWO_VIEWS = StreamSpec(sinks=3, window=37, max_sinks=24, chunk=8)  # 47 rows, and 15 of the layer's own window of 8


@pytest.fixture(scope="module")
def mixed(two_views, tmp_path_factory) -> Path:
    """A tiny random model with a layer of its own window."""
    return two_views.bundle(tmp_path_factory.mktemp("mixed") / "bundle", TWO_VIEWS)


@pytest.mark.parametrize("sinks", [0, 3, 24])
def test_a_model_of_two_views_gives_the_python_runtimes_tokens(mixed, tmp_path, sinks):
    ids = np.random.default_rng(sinks).integers(2, 258, 70).tolist()
    got = generate(mixed, tmp_path, ids, "--max-new-tokens", 300, "--ignore-end", "--sinks", sinks)
    assert len(set(got["ids"])) > 20, "a text that repeats itself tells little"
    assert got["ids"] == greedy(plain(mixed, sinks), ids, 300)
    facts = json.loads(swift.run("inspect", mixed, "--json"))
    assert facts["views"] == [{"capacity": 40, "sinks": True}, {"capacity": 8, "sinks": False}]
    assert got["state_bytes"] == facts["state_bytes"] == plain(mixed).state_bytes


@pytest.mark.parametrize("tokens", [1, 10, 30, 200])
def test_a_session_of_two_views_goes_from_python_to_swift_and_back(mixed, tmp_path, tokens):
    ids = np.random.default_rng(tokens).integers(2, 258, tokens).tolist()
    stream = plain(mixed, sinks=1)
    stream.prefill(ids)
    stream.save(tmp_path / "python.session")
    got = generate(
        mixed, tmp_path, [7, 8, 9], "--max-new-tokens", 20, "--ignore-end",
        "--restore", tmp_path / "python.session", "--save", tmp_path / "swift.session",
    )  # fmt: skip
    assert got["ids"] == greedy(stream, [7, 8, 9], 20)
    other = plain(mixed)
    other.restore(tmp_path / "swift.session")
    assert (other.position, other.sinks) == (tokens + 22, 1)
    np.testing.assert_allclose(other.step(got["ids"][-1]), stream.step(got["ids"][-1]), atol=1e-4)


def greedy(stream: Stream, ids: list[int], tokens: int) -> list[int]:
    """So many tokens after `ids`, the last of them not fed."""
    logits, made = stream.prefill(ids), []
    while True:
        made.append(int(logits.argmax()))
        if len(made) == tokens:
            return made
        logits = stream.step(made[-1])


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
