"""Rows of whole examples are arithmetic: none is cut, each comes once an epoch, and few places are wasted."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data.rows.wholeplan import WholePlan, packing

T = 32


def store_of(lengths, seed=0) -> Any:
    hashes = np.random.default_rng(seed).integers(0, 2**63, len(lengths)).astype(np.uint64)
    return SimpleNamespace(offset_D=np.concatenate([[0], np.cumsum(lengths)]), hash_D=hashes, documents=len(lengths))


def random_lengths(count=300):
    return np.random.default_rng(1).integers(1, T + 1, count)


def test_every_example_is_whole_and_comes_once_an_epoch():
    store = store_of(random_lengths())
    plan = WholePlan(store, T, (0, 0))
    for epoch in (0, 5):
        pieces = plan.pieces(np.arange(plan.rows_per_epoch) + epoch * plan.rows_per_epoch)
        assert sorted(pieces.document_P.tolist()) == list(range(store.documents))
        np.testing.assert_array_equal(pieces.length_P, np.diff(store.offset_D)[pieces.document_P])
        filled_R = np.bincount(pieces.row_P, pieces.length_P)
        assert filled_R.max() <= T
        np.testing.assert_array_equal(pieces.column_P + pieces.length_P <= T, True)


def test_a_row_is_the_same_asked_alone_or_in_any_company():
    store = store_of(random_lengths())
    plan = WholePlan(store, T, (3, 1))
    rows = np.array([7, 10**9, 3, 500])
    together = plan.pieces(rows)
    for place, row in enumerate(rows):
        alone = WholePlan(store, T, (3, 1)).pieces(np.array([row]))
        np.testing.assert_array_equal(alone.document_P, together.document_P[together.row_P == place])
    assert set(together.document_P[together.row_P == 0]) != set(together.document_P[together.row_P == 1])


def test_epochs_and_seeds_have_orders_of_their_own_over_the_same_rows():
    store = store_of(random_lengths())

    def rows(key, epoch):
        plan = WholePlan(store, T, key)
        pieces = plan.pieces(np.arange(plan.rows_per_epoch) + epoch * plan.rows_per_epoch)
        return [tuple(sorted(pieces.document_P[pieces.row_P == row])) for row in range(plan.rows_per_epoch)]

    assert rows((0, 0), 1) == rows((0, 0), 1)
    for other in (rows((0, 0), 2), rows((1, 0), 1)):
        assert rows((0, 0), 1) != other
        assert sorted(rows((0, 0), 1)) == sorted(other)


def test_rows_are_nearly_full():
    """Best fit decreasing wastes at most two ninths beyond what no packing could avoid; of these lengths, a tenth."""
    lengths = random_lengths()
    order, first_Y = packing(lengths, store_of(lengths).hash_D, T)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert len(first_Y) - 1 <= 1.1 * lengths.sum() / T


def test_the_order_in_which_examples_are_stored_does_not_change_the_rows():
    lengths, hashes = random_lengths(50), store_of(random_lengths(50)).hash_D
    swapped = np.random.default_rng(2).permutation(50)
    one, first = packing(lengths, hashes, T)
    other, first_too = packing(lengths[swapped], hashes[swapped], T)
    np.testing.assert_array_equal(first, first_too)
    np.testing.assert_array_equal(one, swapped[other])


def test_an_example_longer_than_a_row_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"an example has 40 tokens, and a row T=32"):
        WholePlan(store_of([3, 40]), T, (0, 0))


def test_held_out_rows_come_once_in_order():
    store = store_of(random_lengths(40))
    plan = WholePlan(store, T, None)
    pieces = plan.pieces(np.arange(plan.rows_per_epoch))
    assert sorted(pieces.document_P.tolist()) == list(range(40))
    np.testing.assert_array_equal(pieces.epoch_P, 0)
