"""Distances between hidden tokens: how many are hidden, what is asked of them, and that only positions can tell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from data.tasks.position import FAR, Position, parts
from gptjax.config import ModelConfig
from gptjax.nn.model import Transformer, init_params
from tests.tiny_text import letters, text_of


def test_a_hidden_token_tells_how_far_it_stands_behind_the_hidden_one_before_it():
    """The first of a segment has none before it. All others keep their words, and all see each other."""
    text = text_of([[letters(40), letters(20)], [letters(60)]], T=64)
    batch = Position().build(text)
    mask = text.corpus.tokenizer.mask
    for row in range(2):
        last, asked = {}, 0
        for t, segment in enumerate(batch.segment_BT[row].tolist()):
            if batch.tokens_BT[row, t] != mask:
                assert batch.weights_BT[row, t] == 0
                continue
            assert batch.weights_BT[row, t] == (segment in last)
            if segment in last:
                assert batch.targets_BT[row, t] == min(t - last[segment], FAR) - 1
                asked += 1
            last[segment] = t
        assert asked == {0: 5 - 1 + 2 - 1, 1: 7 - 1}[row]  # 12 % of 38, 18 and 58 letters
    kept_BT = (batch.segment_BT > 0) & (batch.tokens_BT != mask)
    np.testing.assert_array_equal(batch.tokens_BT[kept_BT], text.token_I[kept_BT[batch.segment_BT > 0]])
    np.testing.assert_array_equal(batch.visible_BT, batch.segment_BT > 0)
    heads = Position().heads(text.corpus)
    assert heads["position"][0] == "1"
    assert heads["position"][-1] == "32 and more"
    assert Position().made_heads(text.corpus)["position"].token  # and so it is not asked of whole texts
    assert Position.token_head == "position"
    assert Position().auxiliary


def test_distances_beyond_the_last_class_are_of_it():
    batch = Position(rate=0.01).build(text_of([[letters(64)]] * 50, T=64))
    assert (batch.weights_BT.sum(axis=1) == 1).all()  # two hidden tokens
    mask = text_of([[letters(8)]], T=8).corpus.tokenizer.mask
    distance_R = np.array([np.ptp(np.flatnonzero(row_T == mask)) for row_T in batch.tokens_BT])
    np.testing.assert_array_equal(batch.targets_BT.sum(axis=1), np.minimum(distance_R, FAR) - 1)
    assert distance_R.max() > FAR


def test_long_pieces_are_cut_into_equal_parts_of_at_most_64():
    """Together they are the piece."""
    piece_S, length_S = parts(np.array([64, 65, 1, 200]))
    np.testing.assert_array_equal(piece_S, [0, 1, 1, 2, 3, 3, 3, 3])
    np.testing.assert_array_equal(length_S, [64, 32, 33, 1, 50, 50, 50, 50])
    batch = Position().build(text_of([[letters(10), letters(150)]], T=170))
    np.testing.assert_array_equal(batch.segment_BT[0], np.repeat([1, 2, 3, 4, 0], [10, 50, 50, 50, 10]))


@pytest.mark.parametrize("rate", [0.05, 0.25, 1.0])
def test_a_segment_has_exactly_the_share_of_hidden_tokens(rate):
    """Trap 12: a share of n ordinary tokens, rounded, at least two where there are so many, n = 1 to 64."""
    lengths = np.repeat(np.arange(1, 65), 4)
    text = text_of([[letters(300)[1 : n + 1]] for n in lengths], T=64)
    batch = Position(rate=rate).build(text)
    wanted = np.minimum(lengths, np.maximum(2, np.round(rate * lengths)))
    np.testing.assert_array_equal((batch.tokens_BT == text.corpus.tokenizer.mask).sum(axis=1), wanted)
    np.testing.assert_array_equal(batch.weights_BT.sum(axis=1), np.maximum(0, wanted - 1))


def test_specials_are_never_hidden():
    """Trap 11: specials, BOS and pads get masked. 10,000 segments with specials anywhere in them, at a rate of 1."""
    draw = np.random.default_rng(0)
    pieces = [draw.integers(0, 12, draw.integers(8, 12)).tolist() for _ in range(10_000)]
    text = text_of([[piece] for piece in pieces], T=12)
    batch = Position(rate=1).build(text)
    was_TB = np.zeros((10_000, 12), np.int64)
    for row, piece in enumerate(pieces):
        was_TB[row, : len(piece)] = piece
    np.testing.assert_array_equal(batch.tokens_BT, np.where(was_TB > 3, text.corpus.tokenizer.mask, was_TB))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_only_positions_can_tell_a_distance(family):
    """Trap 14: solved from the mask or from neighbours. Where all positions are alike, so are the model's states at all
    hidden tokens of a segment; with the true ones, and on causal rows, they are not.
    """
    gpt2 = {"family": "gpt2", "activation": "gelu", "qk_norm": False}
    config = ModelConfig(vocabulary=300, T=32, D=16, L=2, N=2, K=2, F=32, **(gpt2 if family == "gpt2" else {}))
    model = Transformer(config)
    tree = nn.unbox(jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0)))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.standard_normal(leaf.shape), leaf.dtype), tree)
    batch = Position(rate=0.25).build(text_of([[letters(32)]], T=32))
    asked_T = batch.weights_BT[0] > 0
    assert asked_T.sum() == 7
    states = jax.jit(lambda *arrays: model.apply({"params": params}, *arrays)[0])

    def spread(position_BT, visible_BT):
        """The largest difference between states at places that are asked."""
        hidden_TD = np.asarray(states(batch.tokens_BT, batch.segment_BT, position_BT, visible_BT))[0]
        return np.ptp(hidden_TD[asked_T], axis=0).max()

    assert spread(np.zeros_like(batch.position_BT), batch.visible_BT) < 1e-5
    assert spread(batch.position_BT, batch.visible_BT) > 1e-2
    assert spread(np.zeros_like(batch.position_BT), np.zeros_like(batch.visible_BT)) > 1e-2


def test_a_rate_that_cannot_be_is_named():
    with pytest.raises(ValueError, match=r"rate=2: must be above 0 and at most 1"):
        Position(rate=2)
