"""How many sinks a model needs is measured, and stored where streams find it."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from edgesink import load
from edgesink.errors import BadOption
from edgesink.evaluate.advice import NEAR, Trial, advised, store_sinks, try_sinks
from edgesink.evaluate.scoring import Scorer
from edgesink.manifest import Manifest, replace_manifest
from edgesink.spec import StreamSpec

STREAM = StreamSpec(2, 14, 8, 4)


@pytest.fixture
def bundle(toy, tmp_path):
    return toy.bundle(tmp_path / "bundle", STREAM)


@pytest.mark.parametrize(
    ("perplexities", "sinks"),
    [
        ({0: 50.0, 1: 10.0, 4: 10.0}, 1),
        ({0: 10.04, 1: 10.0, 4: 10.0}, 0),  # within half a percent
        ({0: 10.06, 1: 10.0}, 1),
        ({4: 9.0, 1: 12.0, 0: 30.0}, 4),
        ({0: 7.0}, 0),
    ],
)
def test_the_smallest_number_near_the_best_is_advised(perplexities, sinks):
    assert NEAR == 0.005
    assert advised([Trial(n, 100, value) for n, value in perplexities.items()]).sinks == sinks


def test_every_choice_is_scored_past_its_first_eviction_as_single_steps_would(bundle):
    ids = np.random.default_rng(0).integers(2, 250, 60)
    trials = {trial.sinks: trial for trial in try_sinks(Scorer(bundle), ids, [0, 3, 8, 9])}
    assert list(trials) == [0, 3, 8]  # the bundle holds no 9
    stream = load(bundle, sinks=3, kernels=False)
    nats = []
    for now, following in itertools.pairwise(ids):
        logits = stream.step(int(now)).astype(np.float64)
        nats.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[following])
    assert trials[3].tokens == 60 - 1 - STREAM.capacity
    assert trials[3].perplexity == pytest.approx(np.exp(np.mean(nats[STREAM.capacity :])), rel=1e-4)


def test_a_text_that_never_leaves_the_window_is_refused(bundle):
    with pytest.raises(BadOption, match="at least 32 tokens"):
        try_sinks(Scorer(bundle), np.arange(2, 33), [0, 1])


def test_what_is_stored_is_the_default_of_the_next_stream_and_the_session_file_fits(bundle, tmp_path):
    stream = load(bundle)
    stream.prefill([5, 6, 7])
    stream.save(tmp_path / "session")
    manifest = store_sinks(bundle, 5)
    assert (manifest.stream.sinks, manifest.stream.window, manifest.stream.capacity) == (5, 11, 16)
    again = load(bundle)
    assert (again.sinks, again.capacity) == (5, 16)
    again.restore(tmp_path / "session")
    assert (again.sinks, again.position) == (2, 3)


def test_the_command_says_and_stores_what_it_found(bundle, command):
    code, out, err = command("advise", bundle, "--tokens", 64, "--sinks", "0,1,2", "--json")
    result = json.loads(out)
    assert (code, [trial["sinks"] for trial in result["trials"]]) == (0, [0, 1, 2])
    assert Manifest.read(bundle).stream.sinks == result["advised"]
    assert "no --text" in err
    assert command("advise", bundle, "--tokens", 8)[0] == 1


def test_a_text_is_read_behind_the_first_token_that_the_model_was_trained_with(bundle, tmp_path):
    from edgesink.cli.advise import _ids
    from edgesink.runtime.tokenizer import Tokenizer

    (tmp_path / "text").write_text("hello")
    hello = Tokenizer.of_bundle(bundle).encode("hello")
    replace_manifest(bundle, dataclasses.replace(Manifest.read(bundle), bos_id=1))
    assert list(itertools.islice(_ids(bundle, [tmp_path / "text"]), 1 + 2 * len(hello))) == [1, *hello, *hello]
