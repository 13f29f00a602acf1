"""Runs of whole sentences, cut from running text at places that tell nothing: what tasks about sentences read.

Axes: P pieces  N their tokens  X anything.
"""

import numpy as np

from data.marks import SENTENCE_END
from data.tasks.task import Text


def check_lengths(shortest: int, longest: int) -> None:
    """Raises ValueError unless 1 <= shortest <= longest; tokens of a block."""
    if shortest < 1:
        raise ValueError(f"shortest={shortest}: a block must have at least 1 token")
    if longest < shortest:
        raise ValueError(f"longest={longest}: must be at least shortest={shortest}")


def sentence_stops(mark_N: np.ndarray, place_X: np.ndarray) -> np.ndarray:
    """One past the first sentence end at or after each place; beyond the last token where there is none."""
    end_E = np.append(np.flatnonzero(mark_N & SENTENCE_END), len(mark_N))
    return end_E[np.searchsorted(end_E, np.minimum(place_X, len(mark_N)))] + 1


def steps(from_P: np.ndarray, step_P: np.ndarray, until_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(piece, place) of the places from, from + step, ... below `until`, piece after piece."""
    count_P = np.maximum(0, -(-(until_P - from_P) // step_P))
    piece_X = np.repeat(np.arange(len(count_P)), count_P)
    return piece_X, runs(np.zeros_like(count_P), count_P) * step_P[piece_X] + from_P[piece_X]


def runs(begin_X: np.ndarray, length_X: np.ndarray) -> np.ndarray:
    """begin, begin + 1, ... of each length, one run after another."""
    stop_X = np.cumsum(length_X)
    return np.repeat(begin_X - stop_X + length_X, length_X) + np.arange(stop_X[-1] if len(stop_X) else 0)


def documents(text: Text) -> tuple[np.ndarray, np.ndarray]:
    """(first token, one past the last) of each piece's document, as indices into the tokens of its source; i64 [P]."""
    bounds_2P = np.zeros((2, len(text.source_P)), np.int64)
    for source in np.unique(text.source_P):
        of_source = text.source_P == source
        offset_D, document = text.corpus.stores[source].offset_D, text.document_P[of_source]
        bounds_2P[:, of_source] = offset_D[document], offset_D[document + 1]
    return bounds_2P[0], bounds_2P[1]
