"""Withheld positions: how many, what is asked of them, and that nothing but the words can tell the answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from data.tasks.position import BUCKETS, Position, parts, withheld
from gptjax.config import ModelConfig
from gptjax.nn.model import Transformer, init_params
from tests.tiny_text import letters, text_of


def test_withheld_tokens_stand_at_0_and_say_their_64th_of_the_segment():
    """Words stay as they are, all others keep their positions, and all see each other."""
    text = text_of([[letters(40), letters(100)], [letters(256)]], T=256)
    batch = Position().build(text)
    asked_BT = batch.weights_BT > 0
    column_B1T = np.array([[*range(40), *range(100), *[0] * 116], [*range(256)]])
    length_BT = np.array([[40] * 40 + [100] * 100 + [1] * 116, [256] * 256])
    np.testing.assert_array_equal(batch.position_BT, np.where(asked_BT, 0, column_B1T))
    np.testing.assert_array_equal(batch.targets_BT, np.where(asked_BT, column_B1T * BUCKETS // length_BT, 0))
    np.testing.assert_array_equal(batch.tokens_BT[batch.segment_BT > 0], text.token_I)
    np.testing.assert_array_equal(batch.visible_BT, batch.segment_BT > 0)
    assert asked_BT.sum() == 10 + 24 + 64  # a quarter of 38, 98 and 254 letters: 9.5, 24.5 and 63.5, to the even one
    assert Position().heads(text.corpus) == {"position": tuple(str(bucket) for bucket in range(64))}
    assert Position.token_head == "position"
    assert Position().auxiliary


def test_long_pieces_are_cut_into_equal_parts_of_at_most_256():
    """Each with positions of its own; together they are the piece."""
    piece_S, length_S = parts(np.array([256, 257, 1, 1000]))
    np.testing.assert_array_equal(piece_S, [0, 1, 1, 2, 3, 3, 3, 3])
    np.testing.assert_array_equal(length_S, [256, 128, 129, 1, 250, 250, 250, 250])
    batch = Position().build(text_of([[letters(10), letters(600)]], T=620))
    np.testing.assert_array_equal(batch.segment_BT[0], np.repeat([1, 2, 3, 4, 0], [10, 200, 200, 200, 10]))
    for segment, length in ((1, 10), (2, 200), (3, 200), (4, 200)):
        here = batch.segment_BT[0] == segment
        kept = here & (batch.weights_BT[0] == 0)
        np.testing.assert_array_equal(batch.position_BT[0][kept], np.arange(length)[kept[here]])


@pytest.mark.parametrize("rate", [0.05, 0.25, 1.0])
def test_a_segment_has_exactly_the_share_of_withheld_tokens(rate):
    """Trap 12: a share of n ordinary tokens, rounded, at least one, n = 8 to 256; below 8 tokens none."""
    lengths = np.repeat(np.arange(1, 257), 4)
    batch = Position(rate=rate).build(text_of([[letters(300)[1 : n + 1]] for n in lengths], T=256))
    wanted = np.where(lengths < 8, 0, np.maximum(1, np.round(rate * lengths)))
    np.testing.assert_array_equal(batch.weights_BT.sum(axis=1), wanted)


def test_specials_are_never_withheld():
    """Trap 11: specials, BOS and pads get masked. 10,000 segments with specials anywhere in them, at a rate of 1."""
    draw = np.random.default_rng(0)
    pieces = [draw.integers(0, 12, draw.integers(8, 12)).tolist() for _ in range(10_000)]
    batch = Position(rate=1).build(text_of([[piece] for piece in pieces], T=12))
    np.testing.assert_array_equal(batch.weights_BT > 0, batch.tokens_BT > 3)
    assert (batch.segment_BT[batch.weights_BT > 0] == 1).all()


def test_causal_tokens_are_refused():
    """Trap 14: the number of keys that a causal token sees is its position."""
    position_I, chosen_I = np.arange(4), np.array([False, True, False, True])
    np.testing.assert_array_equal(withheld(position_I, chosen_I, np.ones(4, bool)), [0, 0, 2, 0])
    message = r"position: 3 of 4 tokens are causal, .*; withhold positions only where every token is visible"
    with pytest.raises(ValueError, match=message):
        withheld(position_I, chosen_I, np.array([True, False, False, False]))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_withheld_position_can_be_told_from_nothing_but_words(family):
    """Trap 14: solved from the mask or from neighbours. Where the words withheld are alike, among any others, so are
    the model's states; on causal rows, and where positions are not withheld, they are not.
    """
    gpt2 = {"family": "gpt2", "activation": "gelu", "qk_norm": False}
    config = ModelConfig(vocabulary=300, T=32, D=16, L=2, N=2, K=2, F=32, **(gpt2 if family == "gpt2" else {}))
    model = Transformer(config)
    tree = nn.unbox(jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0)))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.standard_normal(leaf.shape), leaf.dtype), tree)
    batch = Position().build(text_of([[letters(32)]], T=32))
    asked_T = batch.weights_BT[0] > 0
    batch.tokens_BT[0, asked_T] = 280
    assert asked_T.sum() == 8
    states = jax.jit(lambda *arrays: model.apply({"params": params}, *arrays)[0])

    def spread(position_BT, visible_BT):
        """The largest difference between states at places that are asked for."""
        hidden_TD = np.asarray(states(batch.tokens_BT, batch.segment_BT, position_BT, visible_BT))[0]
        return np.ptp(hidden_TD[asked_T], axis=0).max()

    assert spread(batch.position_BT, batch.visible_BT) < 1e-5
    assert spread(batch.position_BT, np.zeros_like(batch.visible_BT)) > 1e-2
    assert spread(np.arange(32, dtype=np.int32)[None], batch.visible_BT) > 1e-2


def test_the_cheap_guess_is_the_best_one_by_free_places():
    """Counted segment by segment; where every place has a bucket of its own, right once in so many free places."""
    text = text_of([[letters(200), letters(50)], [letters(256)], [letters(5)]], T=256)
    batch = Position().build(text)
    said, right_BT = Position().baseline(batch, text.corpus)
    assert said == "the 64th of the segment in which most places are free"
    for row, segment, free in ((0, 1, 50), (0, 2, 12), (1, 1, 64)):
        asked_T = (batch.segment_BT[row] == segment) & (batch.weights_BT[row] > 0)
        most = np.bincount(batch.targets_BT[row, asked_T]).max()
        assert asked_T.sum() == free
        np.testing.assert_array_equal(right_BT[row, asked_T], most / free)
    assert right_BT[0, 200:][batch.weights_BT[0, 200:] > 0][0] == 1 / 12
    assert not right_BT[batch.weights_BT == 0].any()


def test_a_rate_that_cannot_be_is_named():
    with pytest.raises(ValueError, match=r"rate=2: must be above 0 and at most 1"):
        Position(rate=2)
