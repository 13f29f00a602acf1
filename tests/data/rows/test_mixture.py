"""Rates follow the mixture, and are kept by counter: exactly over a cycle, nearly over any stretch."""

import numpy as np
import pytest

from data.rows.mixture import lay_out, mixture_rates, parse, unimax
from data.rows.rowplan import assign, pattern

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


SIZES = {"large": 9_000_000, "small": 90_000, "middle": 900_000}
SHARES = dict.fromkeys(SIZES, 1.0)


def test_rates_as_written_do_not_look_at_the_text():
    """Shares of any sum; the sizes change nothing."""
    for sizes in (SIZES, dict.fromkeys(SIZES, 1)):
        assert mixture_rates("rates", {"large": 2, "small": 1, "middle": 1}, sizes, None) == {
            "large": 512,
            "small": 256,
            "middle": 256,
        }


def test_a_proportional_mixture_reads_every_source_as_often():
    """Rows by tokens, whatever the written shares: one epoch of one source is one epoch of all, to a slot."""
    rates = mixture_rates("proportional", SHARES, SIZES, None)
    assert list(rates) == list(SIZES)
    assert rates == lay_out(SIZES)
    assert rates["large"] == 923
    assert rates["middle"] == 92


def test_temperature_flattens_the_mixture():
    """p is proportional to size^(1/T): 1 is proportional, 2 the square root (10 : 3.16 : 1), 1e9 equal parts."""
    assert mixture_rates("temperature 1", SHARES, SIZES, None) == mixture_rates("proportional", SHARES, SIZES, None)
    square_roots = mixture_rates("temperature 2", SHARES, SIZES, None)
    assert square_roots == {"large": 723, "small": 72, "middle": 229}
    assert sorted(mixture_rates("temperature 1e9", SHARES, SIZES, None).values()) == [341, 341, 342]


def test_unimax_is_the_algorithm_of_the_paper():
    """By hand, budget 100, at most 2 epochs. 5: 100/4 = 25 is over 2 * 5, so 10. 12: 90/3 = 30 is over 24, so 24.
    30: 66/2 = 33 is not over 60, so 33. The largest gets what is left, 33. The order of the sources does not matter.
    """
    given = unimax({"d": 1000, "b": 12, "a": 5, "c": 30}, budget=100, epochs=2)
    assert given == {"d": 33, "b": 24, "a": 10, "c": 33}
    assert list(given) == ["d", "b", "a", "c"]
    assert unimax({"a": 5, "b": 12, "c": 30, "d": 1000}, budget=100, epochs=2) == given


def test_unimax_depends_on_how_long_the_run_is():
    """A short run takes equal parts; in a longer one the small source meets its cap, and never exceeds it."""
    assert sorted(mixture_rates("unimax 4", SHARES, SIZES, 1_000_000).values()) == [341, 341, 342]
    rates = mixture_rates("unimax 4", SHARES, SIZES, 9_000_000)
    assert rates["large"] == 1024 - rates["small"] - rates["middle"] > rates["middle"]
    assert rates["small"] / 1024 * 9_000_000 == pytest.approx(4 * SIZES["small"], abs=9_000_000 / 1024)
    assert rates["middle"] / 1024 * 9_000_000 == pytest.approx(4 * SIZES["middle"], abs=9_000_000 / 1024)


def test_unimax_beyond_every_cap_is_proportional():
    """As in the paper, whose parts are normalised: the budget cannot be used up."""
    assert mixture_rates("unimax 1", SHARES, SIZES, 10**9) == mixture_rates("proportional", SHARES, SIZES, None)


def test_a_source_that_would_get_no_row_is_named():
    """0.4 rows in 1024 are refused with the remedy; 0.6 are one row; written rates always get their one row."""
    sizes = {"sea": 1_023_600, "drop": 400}
    with pytest.raises(ValueError, match=r"'proportional' gives 'drop' 0\.039% of the rows.*1/1024.*temperature"):
        mixture_rates("proportional", dict.fromkeys(sizes, 1.0), sizes, None)
    assert mixture_rates("proportional", SHARES, sizes | {"drop": 600}, None)["drop"] == 1
    assert mixture_rates("rates", {"sea": 1e6, "drop": 1}, sizes, None)["drop"] == 1


@pytest.mark.parametrize(
    "mixture",
    [
        "",
        "rate",
        "rates 2",
        "temperature",
        "temperature 0",
        "temperature -1",
        "temperature nan",
        "unimax x",
        "unimax inf",
    ],
)
def test_a_mixture_that_is_none_is_answered_with_those_there_are(mixture):
    with pytest.raises(ValueError, match=r"data\.mixture=.*rates.*proportional.*temperature 3.*unimax 4"):
        parse(mixture)


def test_a_mixture_is_a_way_and_a_number():
    assert parse("  unimax   .5 ") == ("unimax", 0.5)
    assert parse("proportional") == ("proportional", 0)
