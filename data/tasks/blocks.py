"""Runs of whole sentences, cut from running text at places that tell nothing: what tasks about sentences read.

Axes: P pieces  I their tokens  X anything.
"""

import numpy as np

from data.preparation.token_flags import SENTENCE_END
from data.tasks.task import Text


def check_lengths(shortest: int, longest: int) -> None:
    """Raises ValueError unless 1 <= shortest <= longest; tokens of a block."""
    if shortest < 1:
        raise ValueError(f"shortest={shortest}: a block must have at least 1 token")
    if longest < shortest:
        raise ValueError(f"longest={longest}: must be at least shortest={shortest}")


def sentence_stops(mark_I: np.ndarray, place_X: np.ndarray) -> np.ndarray:
    """One past the first sentence end at or after each place; beyond the last token where there is none."""
    end_E = np.append(np.flatnonzero(mark_I & SENTENCE_END), len(mark_I))
    return end_E[np.searchsorted(end_E, np.minimum(place_X, len(mark_I)))] + 1


def chain(
    mark_I: np.ndarray, begin_P: np.ndarray, least_P: np.ndarray, end_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(piece, begin, stop) of neighbouring blocks from `begin` on that end before `end`; in order, i64 [X].

    A block ends with the sentence that makes it at least `least` tokens long.
    """
    piece_X, begin_X = np.arange(len(begin_P)), begin_P
    found = []
    while not found or len(piece_X):  # the first blocks of all pieces, then the second ones, ...
        stop_X = sentence_stops(mark_I, begin_X + least_P[piece_X] - 1)
        inside_X = stop_X <= end_P[piece_X]
        piece_X, begin_X, stop_X = piece_X[inside_X], begin_X[inside_X], stop_X[inside_X]
        found.append((piece_X, begin_X, stop_X))
        begin_X = stop_X
    piece_X, begin_X, stop_X = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    order = np.argsort(begin_X)
    return piece_X[order], begin_X[order], stop_X[order]


def documents(text: Text) -> tuple[np.ndarray, np.ndarray]:
    """(first token, one past the last) of each piece's document, as indices into the tokens of its source; i64 [P]."""
    bounds_2P = np.zeros((2, len(text.source_P)), np.int64)
    for source in np.unique(text.source_P):
        of_source = text.source_P == source
        offset_D, document = text.corpus.stores[source].offset_D, text.document_P[of_source]
        bounds_2P[:, of_source] = offset_D[document], offset_D[document + 1]
    return bounds_2P[0], bounds_2P[1]
