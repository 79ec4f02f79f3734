"""apps/sinktoken: kinds that see the same data, training that goes on where it was stopped, its report."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from edgesink.errors import BadOption
from edgesink.export.checkpoint import open_checkpoint
from edgesink.manifest import Manifest
from sinktoken.__main__ import TEXTS, app
from sinktoken.comparing import named_folders
from sinktoken.hiding import perplexity_without
from sinktoken.looking import favourite, pieces, shares
from sinktoken.measuring import RESULT, Result, perplexities
from sinktoken.report import read_looks
from sinktoken.settings import KINDS, Recipe, Run, Size, runs
from sinktoken.texts import NO_LABEL, SINK_ID, Samples, Texts, encode, make_tokenizer, opening_id
from sinktoken.training import FINISHED, train

SIZE = Size(vocabulary=280, hidden=32, layers=2)
RECIPE = Recipe(steps=4, batch=2, length=24, warmup_steps=1, save_every=2, look_every=2)


@pytest.fixture(scope="module")
def novels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("novels")
    for name, line in {
        "one": "It was a fine day; she said so.\n",
        "persuasion": "He was not of her opinion.\n",
    }.items():
        (folder / f"{name}.txt").write_text(line * 60)
    return folder


@pytest.fixture(scope="module")
def study(novels, tmp_path_factory):
    """A study of one seed, trained for a moment."""
    out = tmp_path_factory.mktemp("study")
    texts = Texts.copied(novels, "persuasion.txt", out / TEXTS)
    tokenizer = make_tokenizer(texts, SIZE.vocabulary)
    ids = encode(tokenizer, texts.training)
    for run in runs(KINDS, 1):
        train(run, SIZE, RECIPE, ids, ids, tokenizer, out / run.name)
    return out


def test_every_kind_sees_the_same_tokens_and_learns_the_same_targets():
    ids = np.arange(1000) + 1
    plain, primed = (Samples(ids, 24, 8, 3, front) for front in ((), (SINK_ID,)))
    for number in range(8):
        one, other = plain[number], primed[number]
        assert other["input_ids"].tolist() == [SINK_ID, *one["input_ids"].tolist()]
        assert other["labels"].tolist() == [NO_LABEL, *one["labels"].tolist()]
        assert one["labels"].tolist() == [NO_LABEL, *one["input_ids"][1:].tolist()]
    assert plain[0]["input_ids"].tolist() != plain[1]["input_ids"].tolist()
    assert plain[0]["input_ids"].tolist() != Samples(ids, 24, 8, 4)[0]["input_ids"].tolist()


def test_no_text_has_the_sink_token(study):
    tokenizer = make_tokenizer(Texts.of(study / TEXTS), SIZE.vocabulary)
    assert SINK_ID not in tokenizer.encode("a text of any kind, äöü").ids
    assert tokenizer.decode(tokenizer.encode("She said so.").ids) == "She said so."


def test_an_opening_stands_in_front_of_every_sample_and_is_no_target():
    first = Samples(np.arange(1000) + 1, 3, 8, 3, (SINK_ID, 7))[0]
    start = first["input_ids"][2].item()
    assert first["input_ids"].tolist() == [SINK_ID, 7, start, start + 1, start + 2]
    assert first["labels"].tolist() == [NO_LABEL, NO_LABEL, NO_LABEL, start + 1, start + 2]


def test_a_model_with_an_opening_is_read_behind_it(novels, tmp_path):
    """As others behind a begin-of-sequence token: in the bundle, and where its attention is looked at."""
    options = [
        "--texts",
        str(novels),
        "--out",
        str(tmp_path),
        "--kinds",
        "vanilla",
        "--seeds",
        "1",
        "--first-seed",
        "5",
    ]
    size = ["--layers", "1", "--hidden", "32", "--head-dim", "16", "--vocabulary", "280"]
    recipe = ["--steps", "1", "--batch", "1", "--length", "24", "--opening", "\n", "--join-lines"]
    trained = CliRunner().invoke(app, ["train", *options, *size, *recipe])
    assert trained.exit_code == 0, trained.output
    folder, held_out = tmp_path / "vanilla-5", Texts.of(tmp_path / TEXTS).held_out
    (line_break,) = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode("").ids
    found = open_checkpoint(folder)
    assert (found.bos_id, found.model.head_dim) == (line_break, 16)
    assert set(pieces(folder, held_out, 12)[:, 0]) == {line_break}
    assert (pieces(folder, held_out, 12)[:, 1:] != line_break).all(), "the lines are joined"
    perplexities(folder, held_out, 48, 120, 1)
    assert Manifest.read(folder / "bundle").first_ids == (line_break,)


def test_an_opening_of_several_tokens_is_refused(study):
    tokenizer = make_tokenizer(Texts.of(study / TEXTS), SIZE.vocabulary)
    assert opening_id(tokenizer, "") is None
    with pytest.raises(BadOption, match="an opening of 3 tokens, 'xyz'"):
        opening_id(tokenizer, "xyz")


def test_heads_that_do_not_fill_the_width_are_refused():
    assert Size(hidden=64, head_dim=16).heads == 4
    with pytest.raises(BadOption, match="a width of 40 and heads of 16 dimensions"):
        Size(hidden=40, head_dim=16)


def test_a_folder_without_the_held_out_text_is_refused(novels, tmp_path):
    with pytest.raises(BadOption, match=r"2 .txt files; expected emma.txt"):
        Texts.copied(novels, "emma.txt", tmp_path)
    with pytest.raises(BadOption, match="kind 'chocolate'"):
        runs(["chocolate"], 1)


def test_the_held_out_text_is_not_trained_on_and_lines_are_joined_if_asked(novels, tmp_path):
    texts = Texts.copied(novels, "persuasion.txt", tmp_path, join_lines=True)
    assert [path.name for path in texts.training] == ["one.txt"]
    assert texts.held_out.read_text() == " ".join(["He was not of her opinion."] * 60)


def test_the_kinds_say_in_their_config_what_they_are(study):
    found = {kind: open_checkpoint(study / f"{kind}-0") for kind in KINDS}
    assert {kind: one.sink_token_id for kind, one in found.items()} == {
        "vanilla": None, "zero-sink": None, "sink-token": SINK_ID,
    }  # fmt: skip
    assert {kind: one.model.off_by_one for kind, one in found.items()} == {
        "vanilla": False, "zero-sink": True, "sink-token": False,
    }  # fmt: skip


def test_a_stopped_run_ends_as_one_that_went_through(study, tmp_path):
    whole, stopped = study / "sink-token-0", tmp_path / "sink-token-0"
    texts = Texts.of(study / TEXTS)
    tokenizer = make_tokenizer(texts, SIZE.vocabulary)
    ids = encode(tokenizer, texts.training)
    halfway = Recipe(**{**vars(RECIPE), "look_every": 1})
    train(Run("sink-token", 0), SIZE, halfway, ids, ids, tokenizer, stopped)
    assert (stopped / "checkpoint-4").is_dir(), "the last save alone is kept"
    shutil.rmtree(stopped / "checkpoint-4")
    (stopped / FINISHED).unlink()
    stop_after(2, halfway, ids, tokenizer, stopped)
    assert not (stopped / FINISHED).exists()
    train(Run("sink-token", 0), SIZE, halfway, ids, ids, tokenizer, stopped)
    for name, tensor in load_file(whole / FINISHED).items():
        assert torch.equal(tensor, load_file(stopped / FINISHED)[name]), name
    assert sorted(read_looks(stopped)) == [0, 1, 2, 3, 4]


def stop_after(step, recipe, ids, tokenizer, folder):
    """Train, and be stopped in the step after the given one."""
    from unittest import mock

    from sinktoken import training

    look = training.Looks._look

    def stop(self, at, model):
        look(self, at, model)
        if at == step + 1:
            raise KeyboardInterrupt

    with mock.patch.object(training.Looks, "_look", stop), pytest.raises(KeyboardInterrupt):
        train(Run("sink-token", 0), SIZE, recipe, ids, ids, tokenizer, folder)


def test_shares_by_hand():
    maps = np.zeros((2, 18, 18))
    maps[0, :, 0] = 0.5  # one head: half on the first token, the rest on nothing
    maps[1] = np.eye(18) * 0.75 + np.eye(18, k=-1) * 0.25  # the other: on itself and on the one before
    found = shares(maps, "x", 0.3, 0.1)
    assert (found.first, found.own, found.previous, found.nothing) == (0.25, 0.375, 0.125, 0.25)


def test_the_favourite_token_is_the_one_looked_at_beyond_its_frequency():
    ids = np.array([[0, 1, 1, 1, 1, 1, 1, 2]])
    assert favourite(ids, np.array([[0.0, 0.75, 0.25], [0.0, 0.6, 0.4]])) == (2, 0.4)


def test_a_hidden_token_is_seen_by_itself_alone():
    """A model that gives the sum of what is seen as its logits: one-hot, so hiding shows in the perplexity."""

    class Seen(torch.nn.Module):
        def forward(self, ids, attention_mask, use_cache):
            seen = (attention_mask[:, 0] == 0).float() @ torch.nn.functional.one_hot(ids, 4).float()  # [B, n, V]
            return SimpleNamespace(logits=seen)

    ids = np.array([[3, 1, 2, 1]])  # the last token is scored, seen from token 2
    seen, hidden = np.zeros((1, 4), bool), np.array([[False, True, False, False]])
    assert perplexity_without(Seen(), ids, seen) == pytest.approx((3 * np.e + 1) / np.e)
    assert perplexity_without(Seen(), ids, hidden) == pytest.approx(2 * np.e + 2)


def test_the_report_measures_every_model_once(study, tmp_path):
    options = ["--out", str(study), "--capacity", "48", "--tokens", "120"]
    first = CliRunner().invoke(app, ["report", *options, "--figures", str(tmp_path)])
    assert first.exit_code == 0, first.output
    rows = [line for line in first.stdout.splitlines() if line.startswith(tuple(f"| {kind} |" for kind in KINDS))]
    assert len(rows) == len(KINDS) * (2 + SIZE.layers)
    assert {path.name for path in tmp_path.iterdir()} == {
        "sink_emergence.png", "sink_perplexity.png", *(f"sink_maps_{kind}.png" for kind in KINDS),
    }  # fmt: skip
    shutil.rmtree(study / "vanilla-0" / "bundle")
    again = CliRunner().invoke(app, ["report", *options, "--figures", str(tmp_path)])
    assert again.stdout == first.stdout
    assert not (study / "vanilla-0" / "bundle").exists(), "what was measured is kept"


def test_models_of_several_settings_are_compared(study, tmp_path):
    model = study / "sink-token-0"
    options = ["--capacity", "48", "--tokens", "120", "--figure", str(tmp_path / "settings.png")]
    found = CliRunner().invoke(app, ["compare", f"as it is={model}", f"twice={model}", *options])
    assert found.exit_code == 0, found.output
    rows = [line.split(" | ") for line in found.stdout.splitlines() if line.startswith(("| as it is", "| twice"))]
    assert [row[:3] for row in rows] == [["| as it is", "2 x 1", "4"], ["| twice", "2 x 1", "4"]]
    shares = read_looks(model)[4]
    assert rows[0][4:6] == [f"{shares.mean(1).max():.1%}", f"{shares.max():.1%}"]
    perplexity = Result.read(model / RESULT).perplexity
    assert rows[1][7] == f"{perplexity['0'] / perplexity['4']:.4f}"
    assert (tmp_path / "settings.png").read_bytes().startswith(b"\x89PNG")


def test_a_comparison_names_what_it_cannot_read(study, tmp_path):
    with pytest.raises(BadOption, match="the model 'nameless'; expected NAME=FOLDER"):
        named_folders([f"a={study / 'vanilla-0'}", "nameless"])
    with pytest.raises(BadOption, match="no trained model in"):
        named_folders([f"a={tmp_path}"])
    with pytest.raises(BadOption, match="two models 'a'"):
        named_folders([f"a={study / 'vanilla-0'}", f"a={study / 'sink-token-0'}"])
