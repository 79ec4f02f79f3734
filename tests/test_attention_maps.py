"""Attention maps: the averages, the first token's share, the command."""

import json

import numpy as np
import pytest

from edgesink.errors import BadOption
from edgesink.evaluate.attention_maps import average_maps, first_token_shares, load_eager, uniform_share
from edgesink.evaluate.checkpoint_text import pieces_of


@pytest.fixture(scope="module")
def model(toy):
    return load_eager(toy.path)


def test_every_query_hands_out_exactly_all_its_attention_and_none_ahead(model):
    pieces = np.random.default_rng(0).integers(2, 258, (19, 12))  # a full batch and a rest
    maps = average_maps(model, pieces)
    assert maps.shape == (3, 4, 12, 12)
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)
    assert np.abs(np.triu(maps, 1)).max() == 0


def test_the_average_of_pieces_is_that_of_each_alone(model):
    pieces = np.random.default_rng(1).integers(2, 258, (3, 9))
    alone = np.mean([average_maps(model, [piece]) for piece in pieces], axis=0)
    np.testing.assert_allclose(average_maps(model, pieces), alone, atol=1e-6)


def test_the_first_tokens_share_by_hand():
    maps = np.zeros((1, 2, 3, 3))
    maps[0, 0] = [[1, 0, 0], [0.5, 0.5, 0], [0.9, 0.1, 0]]  # queries 1 and 2 give it 0.5 and 0.9
    maps[0, 1] = [[1, 0, 0], [0.1, 0.9, 0], [0.1, 0.1, 0.8]]
    (share,) = first_token_shares(maps)
    assert (share.layer, share.first, share.largest) == (0, pytest.approx(0.4), pytest.approx(0.7))
    assert share.last_query == pytest.approx(0.5)
    assert uniform_share(3) == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_no_text_is_refused(model):
    with pytest.raises(BadOption, match="shorter than one sample"):
        average_maps(model, [])


def test_the_command_draws_every_head_and_prints_every_layer(toy, tmp_path, command):
    text = tmp_path / "text.txt"
    text.write_text("It is a truth universally acknowledged. " * 5)
    picture = tmp_path / "maps.png"
    code, out, err = command("attn", toy.path, "--text", text, "--samples", "8", "--plot", picture, "--json")
    assert code == 0, err
    data = json.loads(out)
    assert [layer["layer"] for layer in data["layers"]] == [0, 1, 2]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_smollm2_looks_at_its_first_token_whatever_it_is(smollm2, smollm2_oracle_model, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("She had been forced into prudence in her youth, she learned romance as she grew older. " * 8)
    pieces = list(pieces_of(smollm2, [text], 16))[:4]
    before = smollm2_oracle_model.config._attn_implementation
    smollm2_oracle_model.set_attn_implementation("eager")
    try:
        shares = first_token_shares(average_maps(smollm2_oracle_model, pieces))
    finally:
        smollm2_oracle_model.set_attn_implementation(before)
    sinks = [share.first > 2 * uniform_share(16) for share in shares]
    assert sum(sinks) > 20, [round(share.first, 2) for share in shares]
