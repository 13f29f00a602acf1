"""Which source fills row r: rates laid out by counter, so that every stretch of a run has the promised proportions."""

import functools

import numpy as np

from data.spec import RATE_UNIT


@functools.cache
def pattern(rates: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(source, rank) of every slot of a cycle of 1024 rows: which source fills it, and how many of its slots precede.

    Each slot goes to the source that lags furthest behind its rate, so that no prefix is off by more than a row or two.
    Rates must sum to 1024.
    """
    if sum(rates) != RATE_UNIT:
        raise ValueError(f"rates {rates} sum to {sum(rates)}, not {RATE_UNIT}")
    wanted = np.array(rates) / RATE_UNIT
    given = np.zeros(len(rates), np.int64)
    source_slot, rank_slot = np.zeros(RATE_UNIT, np.int64), np.zeros(RATE_UNIT, np.int64)
    for slot in range(RATE_UNIT):
        lag = wanted * (slot + 1) - given
        source = int(np.argmax(np.where(given < rates, lag, -np.inf)))
        source_slot[slot], rank_slot[slot] = source, given[source]
        given[source] += 1
    return source_slot, rank_slot


def assign(row_R: np.ndarray, rates: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(source, row number within that source) of every row."""
    source_slot, rank_slot = pattern(rates)
    cycle_R, slot_R = np.divmod(np.asarray(row_R, np.int64), RATE_UNIT)
    source_R = source_slot[slot_R]
    return source_R, cycle_R * np.array(rates)[source_R] + rank_slot[slot_R]
