"""Rates are kept by counter: exactly over a cycle, nearly over any stretch."""

import numpy as np
import pytest

from data.mixture import assign, pattern

RATES = (700, 300, 20, 4)


def test_a_cycle_gives_each_source_exactly_its_rate():
    source_R, _ = assign(np.arange(1024), RATES)
    assert tuple(np.bincount(source_R)) == RATES


def test_every_prefix_is_within_two_rows_of_the_promised_shares():
    source_R, _ = assign(np.arange(3000), RATES)
    for source, rate in enumerate(RATES):
        given = np.cumsum(source_R == source)
        assert np.abs(given - np.arange(1, 3001) * rate / 1024).max() < 2


def test_a_source_counts_its_own_rows_without_gaps():
    source_R, within_R = assign(np.arange(5000), RATES)
    for source in range(len(RATES)):
        np.testing.assert_array_equal(within_R[source_R == source], np.arange((source_R == source).sum()))


def test_a_row_belongs_to_the_same_source_wherever_one_starts():
    whole = assign(np.arange(10**9, 10**9 + 50), RATES)
    part = assign(np.arange(10**9 + 20, 10**9 + 30), RATES)
    np.testing.assert_array_equal(whole[0][20:30], part[0])
    np.testing.assert_array_equal(whole[1][20:30], part[1])
    assert len(set(whole[0])) > 1


def test_rates_that_do_not_sum_to_a_cycle_are_refused():
    with pytest.raises(ValueError, match="sum to 3, not 1024"):
        pattern((1, 2))
