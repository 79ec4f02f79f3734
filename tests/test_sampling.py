"""Samplers against distributions worked out by hand, and the golden file that Swift repeats."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgesink.errors import BadNumbers, BadOption
from edgesink.runtime.sampling import SamplingSpec, SplitMix64, TokenRows, make_sampler

HERE = Path(__file__).parent


def frequencies(spec: SamplingSpec, logits: list[float], draws: int = 4000) -> np.ndarray:
    sample = make_sampler(spec)
    ids = [sample(np.array(logits, np.float32), []) for _ in range(draws)]
    return np.bincount(ids, minlength=len(logits)) / draws


def test_splitmix64_gives_the_published_numbers():
    # first outputs for seed 1234567 from the reference implementation at prng.di.unimi.it
    generator = SplitMix64(1234567)
    assert [generator.uniform() for _ in range(2)] == [
        (6457827717110365317 >> 11) * 2.0**-53,
        (3203168211198807973 >> 11) * 2.0**-53,
    ]


def test_greedy_takes_the_largest_and_the_first_of_equals():
    assert make_sampler(SamplingSpec())(np.array([1, 3, 3, 2], np.float32), []) == 1


def test_temperature_one_draws_from_the_softmax():
    probabilities = np.array([0.5, 0.25, 0.25])
    got = frequencies(SamplingSpec(temperature=1.0, seed=0), list(np.log(probabilities)))
    assert np.abs(got - probabilities).max() < 0.03


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (SamplingSpec(temperature=1.0, top_k=2, seed=0), [2 / 3, 1 / 3, 0, 0]),
        (SamplingSpec(temperature=1.0, top_k=3, seed=0), [4 / 7, 2 / 7, 1 / 7, 0]),  # the tie goes to id 2
        (SamplingSpec(temperature=1.0, top_p=0.5, seed=0), [1, 0, 0, 0]),
        (SamplingSpec(temperature=1.0, top_p=0.51, seed=0), [2 / 3, 1 / 3, 0, 0]),
        (SamplingSpec(temperature=1.0, min_p=0.49, seed=0), [2 / 3, 1 / 3, 0, 0]),
        (SamplingSpec(temperature=0.5, top_k=2, seed=0), [4 / 5, 1 / 5, 0, 0]),
    ],
)
def test_a_filter_keeps_what_it_should(spec, expected):
    got = frequencies(spec, [float(x) for x in np.log([0.5, 0.25, 0.125, 0.125])])
    assert np.abs(got - expected).max() < 0.03
    assert (got[np.array(expected) == 0] == 0).all()


def test_the_nucleus_is_found_beyond_the_first_candidates():
    flat = frequencies(SamplingSpec(temperature=1.0, top_p=0.999, seed=0), [0.0] * 1000, draws=2000)
    assert flat[:999].any()
    assert flat[999:].sum() == 0
    assert (flat > 0).sum() > 500


def test_the_repetition_penalty_divides_positive_and_multiplies_negative_logits():
    sample = make_sampler(SamplingSpec(repetition_penalty=2.0, repetition_window=2))
    logits = np.array([4.0, 3.0, -1.0], np.float32)
    assert sample(logits, []) == 0
    assert sample(logits, [0]) == 1
    assert sample(logits, [0, 2, 2]) == 0  # out of the window again
    assert logits.tolist() == [4.0, 3.0, -1.0]


def test_a_seed_repeats_and_no_seed_does_not():
    logits = np.zeros(1000, np.float32)
    run = lambda seed: [make_sampler(SamplingSpec(temperature=1.0, seed=seed))(logits, []) for _ in range(3)]  # noqa: E731
    assert run(7) == run(7)
    assert run(None) != run(None)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"min_p": 1},
        {"repetition_penalty": 0},
        {"repetition_penalty": 1e39},
        {"temperature": float("nan")},
        {"top_p": float("nan")},
    ],
)
def test_an_option_out_of_range_is_refused(bad):
    with pytest.raises(BadOption):
        SamplingSpec(**bad)


@pytest.mark.parametrize("spec", [SamplingSpec(), SamplingSpec(0.7, seed=1), SamplingSpec(0.7, top_k=2, seed=1)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 2])
def test_nothing_is_drawn_from_what_is_not_a_number(spec, bad, place):
    logits = np.arange(4, dtype=np.float32)
    logits[place] = bad
    with pytest.raises(BadNumbers, match=f"token id {place} is"):
        make_sampler(spec)(logits, [])


def test_a_very_small_temperature_is_greedy():
    for temperature in (1e-320, 1e-45, 1e-6):
        sample = make_sampler(SamplingSpec(temperature, top_p=0.9, seed=1))
        assert [sample(np.array([0, 3, 1, 2], np.float32), []) for _ in range(20)] == [1] * 20


@pytest.mark.parametrize("spec", [SamplingSpec(), SamplingSpec(1.0, seed=3)])
def test_a_row_without_a_token_has_no_chance(spec):
    rows, logits = TokenRows.of([0, 3, 1]), np.array([0, 1, 9, 1, 9], np.float32)
    assert rows == TokenRows(4, holes=(2,))
    assert rows.of_logits(logits).tolist() == [0, 1, -np.inf, 1]
    assert {make_sampler(spec)(rows.of_logits(logits), []) for _ in range(50)} <= {0, 1, 3}
    assert TokenRows.of([1, 0]).of_logits(logits).base is logits, "nothing is copied where there is no hole"


def test_the_golden_file_is_current():
    from make_golden_sampler import golden

    assert json.loads((HERE / "golden" / "sampler.json").read_text()) == json.loads(json.dumps(golden()))
