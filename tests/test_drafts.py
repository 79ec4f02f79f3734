"""Several tokens a pass: what is drafted, when it is worth it, and that it changes nothing but the time."""

import collections
import dataclasses
import json

import numpy as np
import pytest

from edgesink import load
from edgesink.errors import BadBundle, BadOption
from edgesink.manifest import MANIFEST, Manifest, describe_file
from edgesink.runtime import drafts as drafts_module
from edgesink.runtime import kernels
from edgesink.runtime.chat import Chat
from edgesink.runtime.drafts import Drafter, Odds
from edgesink.runtime.pass_costs import SIZES, PassCosts
from edgesink.runtime.past import LONGEST, Guess, Past
from edgesink.runtime.sampling import SamplingSpec, make_sampler
from edgesink.spec import StreamSpec

SPEC = StreamSpec(sinks=4, window=60, max_sinks=8, chunk=8)
PROMPT = [20, 21, 22, 23, 24, 25, 26, 27, 28] * 5


@pytest.fixture(scope="module")
def bundle(two_views, tmp_path_factory):
    return two_views.bundle(tmp_path_factory.mktemp("drafts") / "bundle", SPEC)


@pytest.fixture
def stream(bundle):
    return load(bundle)


# ---- what is drafted


def past_of(*ids, size=50, spare=5):
    past = Past(size, spare)
    past.append(np.array(ids))
    return past


def test_a_guess_is_what_followed_the_longest_match():
    past = past_of(1, 2, 3, 9, 8, 2, 3, 7, 6, 1, 2)
    assert past.guess_after(3, 3) == Guess(3, (9, 8, 2)), "1 2 3 was there, the later 2 3 is shorter"
    assert past.guess_after(7, 2) == Guess(1, (6, 1))
    assert past.guess_after(5, 2) is None


def test_of_matches_of_one_length_the_latest_counts():
    assert past_of(1, 2, 5, 1, 2, 6, 1).guess_after(2, 1) == Guess(2, (6,))


def test_a_text_that_repeats_itself_is_guessed_to_go_on_so():
    assert past_of(4, 1, 2, 3, 1, 2).guess_after(3, 7) == Guess(3, (1, 2, 3, 1, 2, 3, 1))
    assert past_of(7, 7, 7).guess_after(7, 3) == Guess(3, (7, 7, 7))


def test_a_match_counts_up_to_sixteen_ids():
    guess = past_of(*range(40)).guess_after(7, 2)
    assert guess == Guess(1, (8, 9))
    assert past_of(*range(30), *range(20)).guess_after(20, 2) == Guess(16, (21, 22))


def test_the_past_is_as_long_as_it_is_told_and_takes_no_more_memory():
    past = Past(5, 2)
    for start in range(0, 100, 3):
        past.append(np.arange(start, start + 3))
        assert past.latest().tolist() == list(range(max(0, start - 2), start + 3))
    past.append(np.arange(1000))
    assert past.latest().tolist() == [995, 996, 997, 998, 999]
    assert past._ids.nbytes == 2 * 7 * 8


def test_what_was_taken_back_is_not_searched_until_it_is_taken_up_again():
    past = past_of(1, 2, 3, 4)
    past.drop(2)
    assert past.latest().tolist() == [1, 2]
    past.again(1)
    assert past.latest().tolist() == [1, 2, 3]
    past.drop(9)
    assert past.latest().tolist() == []


# ---- when it is worth a pass


def test_what_a_pass_costs_is_measured_and_until_then_guessed_from_the_other_sizes():
    costs = PassCosts()
    assert [costs.steps_of(size) for size in (2, 4, 8)] == [1.5, 2.6, 3.8]
    for seconds in (0.1, 0.1, 5.0):
        costs.add(1, seconds)
    assert costs.step_seconds == 0.1, "the median, whatever happened once"
    costs.add(4, 9.0)  # plans its memory
    for seconds in (0.13, 0.13, 7.0):
        costs.add(4, seconds)
    assert costs.steps_of(4) == pytest.approx(1.3)
    assert costs.steps_of(8) == pytest.approx(3.8 / 2), "half of the usual, as those of 4"
    costs.forget_passes()
    assert costs.steps_of(4) == 2.6


def test_odds_follow_what_comes_true():
    odds = Odds()
    first = odds.of(3)
    for _ in range(200):
        odds.note(3, True)
        odds.note(1, False)
    assert odds.of(3) > 0.97 > first
    assert odds.of(1) < 0.01
    expected = odds.expected(3, 3)
    assert expected == pytest.approx([1, 1 + odds.of(3), 1 + odds.of(3) + odds.of(3) * odds.of(4)])


class Machine:
    """A stream and a clock: every pass takes the time that it is told, and every token is `text`'s."""

    most_rows = 16

    def __init__(self, text: list[int], steps_of: dict[int, float]) -> None:
        self.text, self.steps_of, self.now = text, steps_of, 0.0
        self.past, self.changes, self.at, self.back = Past(512, 16), 0, 0, 0

    def perf_counter(self) -> float:
        return self.now

    def feed(self, ids):
        return self.feed_all(ids, 1)[0]

    def feed_all(self, ids, rows):
        self.now += 0.01 * np.interp(len(ids), list(self.steps_of), list(self.steps_of.values()))
        self.past.append(np.array(ids))
        self.at, self.changes = self.at + len(ids), self.changes + 1
        return np.zeros((rows, 1))

    def rewind(self, tokens):
        self.past.drop(tokens)
        self.at, self.changes = self.at - tokens, self.changes + 1

    def take_up(self, tokens):
        self.past.again(tokens)
        self.at, self.changes = self.at + tokens, self.changes + 1


CHEAP, DEAR = {1: 1, 2: 1.2, 8: 1.8, 16: 4}, {1: 1, 2: 2.2, 16: 20}


def time_of(text, steps_of, monkeypatch):
    """Steps' worth of time that following the text takes, and what was drafted."""
    machine = Machine(text, steps_of)
    monkeypatch.setattr(drafts_module.time, "perf_counter", machine.perf_counter)
    drafter = Drafter(machine)
    for count, token in enumerate(text):
        assert machine.at == count, "the stream stands where it would without drafts"
        drafter.follow(token)
    return machine.now / 0.01, drafter.counts


def texts():
    random = np.random.default_rng(3)
    phrases = [random.integers(0, 300, 30).tolist() for _ in range(6)]
    return {
        "never said before": list(range(2000)),
        "anything": random.integers(0, 300, 2000).tolist(),
        "few words": random.integers(0, 5, 2000).tolist(),
        "two words that turn": [int(i % 2 if i % 7 else random.integers(0, 5)) for i in range(2000)],
        "quotes": [token for i in range(70) for token in phrases[random.integers(0, 6)]],
        "always the same": [7] * 2000,
        "first the same, then anything": [7] * 500 + random.integers(0, 5, 2000).tolist(),
    }


@pytest.mark.parametrize("name", texts())
@pytest.mark.parametrize("steps_of", [CHEAP, DEAR], ids=["cheap passes", "dear passes"])
def test_drafts_never_cost_more_than_two_percent(name, steps_of, monkeypatch):
    text = texts()[name]
    spent, counts = time_of(text, steps_of, monkeypatch)
    assert spent <= 1.02 * len(text), f"{spent:.0f} steps' time for {len(text)} tokens, {counts}"


def test_drafts_pay_where_a_text_repeats_itself_and_passes_are_cheap(monkeypatch):
    for name, least in {"quotes": 2.0, "always the same": 3.5}.items():
        text = texts()[name]
        spent, counts = time_of(text, CHEAP, monkeypatch)
        assert len(text) / spent > least, f"{name}: {len(text) / spent:.2f}, {counts}"


def test_passes_that_were_dear_are_tried_again(monkeypatch):
    text = [7] * 2000
    machine = Machine(text, DEAR)
    monkeypatch.setattr(drafts_module.time, "perf_counter", machine.perf_counter)
    drafter = Drafter(machine)
    for token in text[:1000]:
        drafter.follow(token)
    passes = drafter.counts.passes
    machine.steps_of = CHEAP
    for token in text[1000:]:
        drafter.follow(token)
    assert passes > 900
    assert drafter.counts.passes - passes < 700


# ---- that it changes nothing


def guessing(stream, monkeypatch, start, answer, wrong_every=5):
    """Have the stream draft what is known to follow, with an id now and then that does not: a toy never quotes."""
    known = [(id_ + 1) % 250 + 2 if at % wrong_every == 3 else id_ for at, id_ in enumerate(answer)]

    def guess_after(_, count):
        ids = known[stream.position - start + 1 :][:count]
        return Guess(LONGEST, tuple(ids)) if ids else None

    monkeypatch.setattr(stream.past, "guess_after", guess_after)


@pytest.mark.parametrize(
    "options",
    [{}, {"repetition_penalty": 1.3}, {"temperature": 0.7, "seed": 5}, {"temperature": 2.0, "top_k": 20, "seed": 6}],
    ids=str,
)
def test_the_same_tokens_are_chosen_from_the_same_place(bundle, options, monkeypatch):
    plain, drafted = load(bundle), load(bundle)
    for start in (30, 60):
        prompt, asked = [start, *PROMPT], plain.position + 1 + len(PROMPT)
        made = [(token, plain.position) for token in plain.generate(prompt, 60, drafts="off", **options)]
        guessing(drafted, monkeypatch, asked, [token.id for token, _ in made])
        assert [(t, drafted.position) for t in drafted.generate(prompt, 60, drafts="on", **options)] == made
        assert np.abs(plain.step(9) - drafted.step(9)).max() < 1e-3
    counts = drafted.drafter.counts
    assert counts.accepted > counts.tokens / 3, "many drafts came true"
    assert counts.drafted > counts.accepted + counts.tokens / 10, "and some did not"
    assert counts.passes + counts.accepted == counts.tokens


def test_an_answer_that_is_left_in_the_middle_of_a_draft_leaves_the_stream_there(bundle, monkeypatch):
    plain, drafted = load(bundle), load(bundle)
    answer = [token.id for token in plain.generate(PROMPT, 40, drafts="off")]
    guessing(drafted, monkeypatch, len(PROMPT), answer)
    for count in range(1, 16):
        drafted.reset()
        tokens = drafted.generate(PROMPT, drafts="on")
        assert [next(tokens).id for _ in range(count)] == answer[:count]
        if count % 2:
            tokens.close()  # else it is never finished
        assert drafted.position == len(PROMPT) + count - 1, "the last one is not in the stream"
        plain.reset()
        plain.prefill([*PROMPT, *answer[: count - 1]])
        assert np.abs(plain.step(99) - drafted.step(99)).max() < 1e-3
    assert drafted.drafter.counts.accepted > 30


def test_what_was_computed_ahead_is_forgotten_when_the_stream_is_changed(bundle):
    """Whoever feeds, rewinds, repins or resets between two tokens gets what they did, not what was drafted."""

    def feed_and_rewind(stream):
        stream.prefill([200, 201, 202])
        stream.rewind(3)

    changes = {
        "fed": lambda stream: stream.prefill([200, 201]),
        "fed and rewound": feed_and_rewind,
        "rewound": lambda stream: stream.rewind(1),
        "repinned": lambda stream: stream.repin([200, 201, 202, 203]),
        "reset": lambda stream: stream.reset(),
    }
    for name, change in changes.items():
        plain, drafted = load(bundle), load(bundle)
        drafted.prefill(PROMPT)
        plain.prefill(PROMPT)
        drafted.follow(20, "on")
        assert drafted.drafter._ahead.ids[:2] == [21, 22]
        plain.step(20)
        change(drafted)
        change(plain)
        for token in (21, 22, 23):
            difference = np.abs(drafted.follow(token, "on") - plain.step(token)).max()
            assert difference < 1e-3, f"{name}: {difference:.1e}"
        assert drafted.position == plain.position, name


def test_tokens_are_taken_up_again_only_while_they_lie_there(stream):
    stream.prefill(PROMPT)
    stream.rewind(3)
    with pytest.raises(BadOption, match="taking up 4 tokens again; expected 0 to 3"):
        stream.take_up(4)
    stream.take_up(2)
    assert stream.position == len(PROMPT) - 1
    expected = stream.step(30)
    with pytest.raises(BadOption):
        stream.take_up(1)
    stream.reset()
    assert np.abs(stream.prefill([*PROMPT[:-1], 30]) - expected).max() < 1e-4


def test_stop_strings_and_ends_cut_an_answer_inside_a_draft(bundle, monkeypatch):
    plain, drafted = load(bundle), load(bundle)
    answer = [token.id for token in plain.generate(PROMPT, 40, drafts="off")]
    text = plain.tokenizer.decode(answer)
    stop = text[14:17]
    plain.reset()
    expected = list(plain.generate(PROMPT, 40, stop=[stop], drafts="off"))
    guessing(drafted, monkeypatch, len(PROMPT), answer, wrong_every=99)
    assert list(drafted.generate(PROMPT, 40, stop=[stop], drafts="on")) == expected
    assert drafted.position == plain.position
    drafted.reset()
    drafted.manifest = dataclasses.replace(drafted.manifest, eos_ids=(answer[9],))
    found = [token.id for token in drafted.generate(PROMPT, 40, drafts="on")]
    assert found == answer[: answer.index(answer[9]) + 1]
    assert drafted.position == len(PROMPT) + len(found) - 1
    assert drafted.drafter.counts.accepted > 8


def test_a_conversation_stands_after_every_token_where_it_would(bundle):
    talks = [Chat(load(bundle)), Chat(load(bundle))]
    talks[0].stream.drafts, talks[1].stream.drafts = "off", "on"
    for message in ("one two one two one two", "one two one two", "again: one two one two"):
        for one, other in zip(*(talk.answer(message, 30) for talk in talks), strict=True):
            assert one == other
            assert talks[0]._unfed == talks[1]._unfed
    assert talks[1].stream.drafter.counts.accepted > 0


def test_sampled_tokens_have_their_distribution_whatever_is_drafted(stream, monkeypatch):
    """Chi-square over 2000 draws where the likeliest token is drafted: of it, of the next ten, and of all others."""
    draws, temperature = 2000, 2.0
    stream.prefill(PROMPT)
    stream.step(20)
    logits = stream.step(21).astype(np.float64)
    stream.rewind(2)
    chances = np.exp((logits - logits.max()) / temperature)
    chances /= chances.sum()
    kinds = np.argsort(-chances)[:11].tolist()  # the draft first
    monkeypatch.setattr(stream.past, "guess_after", lambda *_: Guess(LONGEST, (21, kinds[0], 5, 6)))
    monkeypatch.setattr(Odds, "expected", lambda *_: list(range(1, 17)))  # so all of it is run
    sample, counted = make_sampler(SamplingSpec(temperature, seed=11)), collections.Counter()
    for _ in range(draws):
        stream.follow(20, "on")
        assert stream.drafter._ahead.ids[:2] == [21, kinds[0]]
        counted[sample(stream.follow(21, "on"), ())] += 1
        stream.rewind(2)
    observed = np.array([counted[kind] for kind in kinds])
    expected = draws * chances[kinds]
    observed, expected = np.append(observed, draws - observed.sum()), np.append(expected, draws - expected.sum())
    assert expected.min() > 20 < observed[0], "enough of each for the test to mean something"
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert statistic < 31.3, f"11 degrees of freedom: more in one of a thousand, {statistic:.1f}"


# ---- rows of logits


@pytest.mark.parametrize("rows", [1, 2, 7, 8])
def test_a_pass_gives_the_logits_after_each_of_its_last_tokens(bundle, rows):
    one, all_ = load(bundle), load(bundle)
    expected = np.array([one.step(token) for token in PROMPT])
    found = all_.feed_all(PROMPT, rows)
    assert found.shape == (rows, 258)
    assert np.abs(found - expected[-rows:]).max() < 1e-3
    assert np.abs(all_.step(5) - one.step(5)).max() < 1e-3


@pytest.mark.parametrize(("ids", "rows"), [(PROMPT, 9), ([5, 6], 3), ([5, 6], 0), (PROMPT, -1)])
def test_rows_that_a_pass_does_not_give_are_refused(stream, ids, rows):
    with pytest.raises(BadOption, match="rows of logits"):
        stream.feed_all(ids, rows)
    assert stream.position == 0


def as_before_there_were_rows(bundle, folder, graph_too=True):
    """A bundle whose manifest does not speak of rows, and whose graph has no input for them."""
    import shutil

    import onnx

    shutil.copytree(bundle, folder)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    if graph_too:
        inputs = [given for given in model.graph.input if given.name != "logit_rows"]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
    manifest = Manifest.read(folder)
    files = tuple(describe_file(folder, folder / file.path) for file in manifest.files)
    data = json.loads(manifest.to_json()) | {"files": [vars(file) for file in files]}
    return data


def test_a_bundle_of_one_row_is_read_and_never_drafts(bundle, tmp_path, command):
    data = as_before_there_were_rows(bundle, tmp_path / "old")
    del data["logit_rows"]
    (tmp_path / "old" / MANIFEST).write_text(json.dumps(data))
    old, new = load(tmp_path / "old"), load(bundle)
    assert old.most_rows == 1
    assert list(old.generate(PROMPT, 30)) == list(new.generate(PROMPT, 30, drafts="off"))
    for act in (lambda: list(old.generate(PROMPT, 3, drafts="on")), lambda: old.feed_all(PROMPT, 2)):
        with pytest.raises(BadOption, match="export the model again"):
            act()
    assert "drafts    none: exported before" in command("inspect", tmp_path / "old")[1]
    assert "drafts    up to 8 tokens" in command("inspect", bundle)[1]


def test_a_manifest_that_promises_rows_which_the_graph_does_not_give_is_refused(bundle, tmp_path):
    data = as_before_there_were_rows(bundle, tmp_path / "lies")
    (tmp_path / "lies" / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(BadBundle, match="no input logit_rows"):
        load(tmp_path / "lies")


@pytest.mark.parametrize("rows", [0, 1, 9, "2", None, 2.0])
def test_a_number_of_rows_that_no_bundle_has_is_refused(bundle, tmp_path, rows):
    data = json.loads(Manifest.read(bundle).to_json()) | {"logit_rows": rows}
    with pytest.raises(BadBundle, match="logit_rows"):
        Manifest.from_json(json.dumps(data))


@pytest.fixture(scope="module")
def on_kernels(two_views, tmp_path_factory):
    """Two rings, chunks longer than a pass, eight bits."""
    wide = dataclasses.replace(two_views, window=24)
    return wide.bundle(tmp_path_factory.mktemp("kernels") / "bundle", StreamSpec(4, 60, 8, 20), "int8")


@pytest.mark.parametrize("place", [0, 3, 30, 63, 75, 200])
def test_a_pass_on_the_kernels_has_the_bits_of_single_steps(on_kernels, instructions, place):
    """Up to the longest pass that drafts run: so not even two tokens that are all but equally likely change places."""
    one, all_ = load(on_kernels), load(on_kernels)
    ids = np.random.default_rng(0).integers(2, 258, 400)
    for stream in (one, all_):
        if place:
            stream.prefill(ids[:place])
    for size in SIZES:
        start = one.position
        expected = np.array([one.step(token) for token in ids[start : start + size]])
        assert np.array_equal(all_.feed_all(ids[start : start + size], size), expected), size
    assert np.array_equal(one.step(9), all_.step(9))


@pytest.mark.skipif(not kernels.available_kernels(), reason="no kernels on this machine")
def test_a_real_model_says_the_same_in_fewer_passes(smollm2_bundles, english):
    bundle = smollm2_bundles("int4", StreamSpec.fitted(window=28))
    plain, drafted = load(bundle), load(bundle)
    for start in (0, 100):
        prompt = [*english[start : start + 12]] * 2
        expected = [token.id for token in plain.generate(prompt, 40, drafts="off")]
        assert [token.id for token in drafted.generate(prompt, 40, drafts="on")] == expected
        assert np.array_equal(plain.step(9), drafted.step(9)), "to the bit"
    counts = drafted.drafter.counts
    assert counts.passes < counts.tokens - 20
