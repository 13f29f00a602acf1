"""Shuffled trigrams: the state before each place of a trigram predicts the token that stood there, by the usual head.

Source: Wang et al. 2019, "StructBERT", arXiv:1908.04577, section 2.2, with the shift of masked words (masked_lm).
"""

import dataclasses
import itertools
from typing import ClassVar

import numpy as np

from data.tasks.task import Corpus, Task, Text, packed, ranks
from gptjax.batch import Batch

ORDERS = np.array(list(itertools.permutations(range(3))))  # [6, 3], the true order first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order(Task):
    """Shuffled trigrams: some runs of three tokens are in another order, and are put back."""

    rate: float = 0.05  # share of a piece's tokens

    auxiliary: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.rate <= 1:
            raise ValueError(f"Order.rate={self.rate}: must be above 0 and at most 1")

    def build(self, text: Text) -> Batch:
        """Pieces of documents as encoder segments. Positions stay with the places, not with the tokens."""
        first_I = self.chosen(text)
        place_I3 = first_I[:, None] + np.arange(3)
        order_I = (text.chance(1)[first_I] * len(ORDERS)).astype(np.int64)
        token_I, targets_I = text.token_I.copy(), np.zeros_like(text.token_I)
        token_I[place_I3] = text.token_I[first_I[:, None] + ORDERS[order_I]]
        targets_I[place_I3 - 1] = text.token_I[place_I3]  # no trigram begins a piece
        weights_I = np.zeros(len(token_I), bool)
        weights_I[place_I3 - 1] = True
        return packed(
            text, text.row_P, text.length_P, token_I,
            targets_I=targets_I, weights_I=weights_I, visible_I=np.ones(len(token_I), bool),
        )  # fmt: skip

    def chosen(self, text: Text) -> np.ndarray:
        """The first tokens of the trigrams, i64 [I]: of each piece a third of `rate` x tokens, rounded, at least one.

        They are cells of a grid, so that none overlap; it begins at the first, second or third token that may be moved.
        """
        place_M = np.flatnonzero(text.corpus.is_ordinary_V[text.token_I] & (text.position_I > 0))
        piece_M = text.piece_I[place_M]
        count_P = np.bincount(piece_M, minlength=len(text.length_P))
        ways_P = np.clip(count_P - 2, 1, 3)  # to lay the grid so that it holds a trigram
        skipped_P = (text.chance_of_pieces(2) * ways_P).astype(np.int64)
        cell_M = np.arange(len(place_M)) - np.searchsorted(piece_M, piece_M, side="left") - skipped_P[piece_M]
        # three neighbours are of one piece, since its first token is in none
        whole_M = (cell_M[:-2] >= 0) & (cell_M[:-2] % 3 == 0) & (place_M[2:] - place_M[:-2] == 2)
        first_G, piece_G = place_M[:-2][whole_M], piece_M[:-2][whole_M]
        wanted_P = np.maximum(1, np.round(self.rate * count_P / 3))
        return first_G[ranks(piece_G, text.chance(0)[first_G]) < wanted_P[piece_G]]

    def baseline(self, batch: Batch, corpus: Corpus) -> tuple[str, np.ndarray]:
        stands_BT = np.roll(batch.tokens_BT, -1, axis=1)
        return "the token that stands there", np.where(batch.weights_BT > 0, stands_BT == batch.targets_BT, 0.0)
