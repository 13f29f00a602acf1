"""Shuffled trigrams: which, how many, in what order, and that each place asks for the token that stood there."""

import itertools

import numpy as np
import pytest

from data.tasks.order import Order
from tests.tiny_text import letters, text_of


def test_a_trigram_holds_its_own_tokens_in_another_order():
    """All six orders come up equally often; everything outside of trigrams reads as written."""
    document = [1, *range(200, 260), 2]
    text = text_of([[document]] * 600, T=64)
    batch = Order().build(text)
    found = []
    for row, first in zip(text.row_P[text.piece_I[Order().chosen(text)]], Order().chosen(text) % 62, strict=True):
        assert batch.weights_BT[row, first - 1 : first + 2].all()
        np.testing.assert_array_equal(batch.targets_BT[row, first - 1 : first + 2], document[first : first + 3])
        found.append(tuple(batch.tokens_BT[row, first : first + 3] - document[first]))
    counts = [found.count(order) for order in itertools.permutations(range(3))]
    assert sum(counts) == 600  # 60 letters x 0.05 / 3 = 1 trigram each
    assert all(60 < count < 140 for count in counts)
    in_trigram_BT = np.roll(batch.weights_BT, 1, axis=1) > 0
    assert in_trigram_BT.sum() == 1800
    plain_BT = np.pad(np.tile(document, (600, 1)), ((0, 0), (0, 2)))
    np.testing.assert_array_equal(batch.tokens_BT[~in_trigram_BT], plain_BT[~in_trigram_BT])
    np.testing.assert_array_equal(batch.position_BT[:, :62], np.tile(np.arange(62), (600, 1)))
    np.testing.assert_array_equal(batch.visible_BT, batch.segment_BT > 0)


@pytest.mark.parametrize("rate", [0.05, 0.3, 1.0])
def test_trigrams_cover_the_share_and_never_overlap(rate):
    """Trap 12: a third of the share of n - 1 tokens, rounded, at least one where three have room, n = 1 to 64.

    At a rate of 1 the grid may begin at the third token and lose a trigram.
    """
    lengths = np.repeat(np.arange(1, 65), 20)
    text = text_of([[letters(70)[1 : n + 1]] for n in lengths], T=64)
    task = Order(rate=rate)
    places = (task.chosen(text)[:, None] + np.arange(3)).ravel()
    assert len(np.unique(places)) == len(places)
    covered = np.bincount(text.piece_I[places], minlength=len(lengths))
    room = lengths - 1  # a piece's first token has nobody to predict it
    wanted = np.where(room < 3, 0, 3 * np.maximum(1, np.round(rate * room / 3)))
    most = np.where(room < 3, 0, 3 * np.maximum(1, (room - 2) // 3))
    if rate < 1:
        np.testing.assert_array_equal(covered, wanted)
    else:
        assert (covered >= most).all()
        assert (covered <= room).all()
    np.testing.assert_array_equal(task.build(text).weights_BT.sum(axis=1), covered)


def test_every_place_that_has_room_may_begin_a_trigram():
    text = text_of([[letters(10)]] * 500, T=10)
    assert {*(Order().chosen(text) % 10).tolist()} == {1, 2, 3, 4, 5, 6}


def test_specials_and_first_tokens_are_in_no_trigram():
    """Trap 11: 10,000 pieces with specials anywhere in them, at a rate of 1."""
    draw = np.random.default_rng(0)
    pieces = [draw.choice([1, 2, 3, *range(200, 230)], draw.integers(1, 16)).tolist() for _ in range(10_000)]
    text = text_of([[piece] for piece in pieces], T=16)
    batch = Order(rate=1).build(text)
    moved_BT = np.roll(batch.weights_BT, 1, axis=1) > 0
    assert moved_BT.sum() > 10_000
    assert not (moved_BT & ((batch.tokens_BT <= 3) | (batch.position_BT == 0))).any()
    assert (batch.targets_BT[batch.weights_BT > 0] > 3).all()
    laid = batch.segment_BT > 0
    unmoved = ~moved_BT[laid]
    np.testing.assert_array_equal(batch.tokens_BT[laid][unmoved], text.token_I[unmoved])


def test_the_cheap_guess_is_the_token_that_stands_there():
    """Right for all three tokens of one order, one token of three, none of two: one time in three."""
    text = text_of([[[1, *range(200, 260), 2]]] * 2000, T=62)
    batch = Order().build(text)
    said, right_BT = Order().baseline(batch, text.corpus)
    assert said == "the token that stands there"
    by_row = right_BT.sum(axis=1)
    assert {*by_row.tolist()} == {0.0, 1.0, 3.0}
    assert by_row.mean() == pytest.approx(1, abs=0.1)
    assert not right_BT[batch.weights_BT == 0].any()


def test_a_rate_that_cannot_be_is_named():
    with pytest.raises(ValueError, match=r"rate=0: must be above 0 and at most 1"):
        Order(rate=0)
