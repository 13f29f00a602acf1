"""Withheld positions: a token that was not told its place says where in the segment it stands, in 64ths of it.

Source: Zhai et al. 2022, "Position prediction as an effective pretraining strategy", arXiv:2207.07611, section 3.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from data.tasks.task import Corpus, Task, Text, packed, ranks
from gptjax.batch import Batch

HEAD = "position"
BUCKETS = 64  # parts of a segment that are told apart
SHORTEST, LONGEST = 8, 256  # tokens of a segment with targets; of any segment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position(Task):
    """Withheld positions: some tokens stand at position 0, and say where they belong."""

    rate: float = 0.25  # share of a segment's tokens

    auxiliary: ClassVar[bool] = True
    token_head: ClassVar[str | None] = HEAD

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.rate <= 1:
            raise ValueError(f"Position.rate={self.rate}: must be above 0 and at most 1")

    def heads(self, corpus: Corpus) -> dict[str, tuple[str, ...]]:
        return {HEAD: tuple(map(str, range(BUCKETS)))}

    def build(self, text: Text) -> Batch:
        """Pieces as encoder segments, the longer ones in equal parts. Words stay, only their places are withheld."""
        piece_S, length_S = parts(text.length_P)
        length_I = np.repeat(length_S, length_S)
        place_I = np.arange(len(length_I)) - np.repeat(np.cumsum(length_S) - length_S, length_S)
        chosen_I = self.chosen(text, length_S)
        visible_I = np.ones(len(length_I), bool)
        return packed(
            text, text.row_P[piece_S], length_S, text.token_I,
            targets_I=np.where(chosen_I, place_I * BUCKETS // length_I, 0), weights_I=chosen_I, visible_I=visible_I,
            position_I=withheld(place_I, chosen_I, visible_I),
        )  # fmt: skip

    def chosen(self, text: Text, length_S: np.ndarray) -> np.ndarray:
        """The tokens to predict, bool [I]: of each segment a share `rate`, rounded, of its ordinary ones, at least one.

        A segment of fewer than 8 tokens has none: its places say too little.
        """
        may_I = text.corpus.is_ordinary_V[text.token_I] & np.repeat(length_S >= SHORTEST, length_S)
        segment_M = np.repeat(np.arange(len(length_S)), length_S)[may_I]
        count_S = np.bincount(segment_M, minlength=len(length_S))
        wanted_S = np.maximum(1, np.round(self.rate * count_S))
        chosen_I = np.zeros(len(may_I), bool)
        chosen_I[may_I] = ranks(segment_M, text.chance(0)[may_I]) < wanted_S[segment_M]
        return chosen_I

    def baseline(self, batch: Batch, corpus: Corpus) -> tuple[str, np.ndarray]:
        """The best that one can do who sees which places of a segment are free, and not what stands there."""
        correct_BT = np.zeros(batch.shape)
        row_M, column_M = np.nonzero(batch.weights_BT)
        of_row_M = row_M * (batch.shape[1] + 1) + batch.segment_BT[row_M, column_M]
        found, segment_M = np.unique(of_row_M, return_inverse=True)
        cell_M = segment_M * BUCKETS + batch.targets_BT[row_M, column_M]
        free_SX = np.bincount(cell_M, minlength=len(found) * BUCKETS).reshape(-1, BUCKETS)
        correct_BT[row_M, column_M] = (free_SX.max(axis=1) / free_SX.sum(axis=1))[segment_M]
        return "the 64th of the segment in which most places are free", correct_BT


def parts(length_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pieces cut into the fewest, nearly equal parts of at most 256 tokens: (piece, tokens) of each, i64 [S]."""
    count_P = -(-length_P // LONGEST)
    piece_S = np.repeat(np.arange(len(length_P)), count_P)
    part_S = np.arange(len(piece_S)) - np.repeat(np.cumsum(count_P) - count_P, count_P)
    length_S, count_S = length_P[piece_S], count_P[piece_S]
    return piece_S, (part_S + 1) * length_S // count_S - part_S * length_S // count_S


def withheld(position_I: np.ndarray, chosen_I: np.ndarray, visible_I: np.ndarray) -> np.ndarray:
    """The positions with 0 for the chosen tokens.

    Raises ValueError for tokens that only later ones see: how many keys a token sees would tell its position.
    """
    if not visible_I.all():
        raise ValueError(
            f"position: {np.sum(~visible_I)} of {len(visible_I)} tokens are causal, and how many keys a token sees "
            "tells its position; withhold positions only where every token is visible to its whole segment"
        )
    return np.where(chosen_I, 0, position_I)
