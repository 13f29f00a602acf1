"""Distances between hidden tokens: how far a hidden token stands behind the hidden one before it.

What is hidden reads the same everywhere, so nothing but positions can tell. Asked where in its segment a token belongs
whose position was withheld (Zhai et al. 2022, arXiv:2207.07611, section 3), small models with rotary positions learnt
nothing: docs/log.md. Relative distance is what rotary positions show: Su et al. 2021, arXiv:2104.09864, section 3.1.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from data.tasks.task import Corpus, Task, Text, packed, ranks
from gptjax.batch import Batch

HEAD = "position"
FAR = 32  # tokens, from which on distances are one class
LONGEST = 64  # tokens of a segment, so that few hidden tokens see each other


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position(Task):
    """Positions: some tokens are hidden, and each tells how far it stands behind the hidden one before it."""

    rate: float = 0.12  # share of a segment's tokens

    auxiliary: ClassVar[bool] = True
    token_head: ClassVar[str | None] = HEAD

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.rate <= 1:
            raise ValueError(f"Position.rate={self.rate}: must be above 0 and at most 1")

    def heads(self, corpus: Corpus) -> dict[str, tuple[str, ...]]:
        return {HEAD: (*map(str, range(1, FAR)), f"{FAR} and more")}

    def build(self, text: Text) -> Batch:
        """Pieces as encoder segments, the longer ones in equal parts. A segment's first hidden token has no target."""
        piece_S, length_S = parts(text.length_P)
        segment_I = np.repeat(np.arange(len(length_S)), length_S)
        hidden_I = self.chosen(text, segment_I)
        place_M = np.flatnonzero(hidden_I)
        has_one_before_M = segment_I[place_M[1:]] == segment_I[place_M[:-1]]
        asked_M, distance_M = place_M[1:][has_one_before_M], np.diff(place_M)[has_one_before_M]
        targets_I, weights_I = np.zeros(len(hidden_I), np.int64), np.zeros(len(hidden_I), bool)
        targets_I[asked_M] = np.minimum(distance_M, FAR) - 1
        weights_I[asked_M] = True
        mask = text.corpus.tokenizer.mask
        assert mask is not None  # data.prepare sees to it
        return packed(
            text, text.row_P[piece_S], length_S, np.where(hidden_I, mask, text.token_I),
            targets_I=targets_I, weights_I=weights_I, visible_I=np.ones(len(hidden_I), bool),
        )  # fmt: skip

    def chosen(self, text: Text, segment_I: np.ndarray) -> np.ndarray:
        """The tokens to hide, bool [I]: of each segment a share `rate`, rounded, of its ordinary ones, at least two."""
        may_I = text.corpus.is_ordinary_V[text.token_I]
        segment_M = segment_I[may_I]
        count_S = np.bincount(segment_M, minlength=segment_I.max(initial=-1) + 1)
        wanted_S = np.maximum(2, np.round(self.rate * count_S))
        chosen_I = np.zeros(len(may_I), bool)
        chosen_I[may_I] = ranks(segment_M, text.chance(0)[may_I]) < wanted_S[segment_M]
        return chosen_I


def parts(length_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pieces cut into the fewest, nearly equal parts of at most 64 tokens: (piece, tokens) of each, i64 [S]."""
    count_P = -(-length_P // LONGEST)
    piece_S = np.repeat(np.arange(len(length_P)), count_P)
    part_S = np.arange(len(piece_S)) - np.repeat(np.cumsum(count_P) - count_P, count_P)
    length_S, count_S = length_P[piece_S], count_P[piece_S]
    return piece_S, (part_S + 1) * length_S // count_S - part_S * length_S // count_S
