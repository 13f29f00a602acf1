"""Masked words, as masked next-token prediction: the state before a masked token predicts it, through the usual head.

Source: Charpentier and Samuel 2024, "GPT or BERT: why not both?", arXiv:2410.24159, sections 2 and 3; Devlin et al.
2019, arXiv:1810.04805, section 3.1 (80 % masked, 10 % another token, 10 % left).
"""

import dataclasses
from typing import ClassVar, Literal

import numpy as np

from data.preparation.token_flags import WORD_START
from data.tasks.task import Corpus, Task, Text, packed, ranks
from gptjax.batch import Batch

MASKED, REPLACED = 0.8, 0.1  # of the chosen tokens; the rest stay as they are


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLM(Task):
    """Masked words: some words are hidden, and predicted from both sides."""

    rate: float = 0.30  # share of the tokens that are chosen at the start of the run
    final_rate: float = 0.15  # and at its end; evenly in between
    span: int = 3  # neighbouring units that are chosen together: 1 to so many
    unit: Literal["word", "token"] = "word"  # words are hidden whole, Chinese ones as jieba cuts them

    masks: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        for name in ("rate", "final_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"MaskedLM.{name}={getattr(self, name)}: must be above 0 and at most 1")
        if self.span < 1:
            raise ValueError(f"MaskedLM.span={self.span}: must be at least 1")

    def build(self, text: Text) -> Batch:
        """Pieces of documents as encoder segments. The first token of a segment has nobody to predict it."""
        chosen_I = self.chosen(text)
        target_I = np.append(text.token_I[1:], 0)
        return packed(
            text, text.row_P, text.length_P, hidden(text, chosen_I),
            targets_I=np.where(np.append(chosen_I[1:], False), target_I, 0),
            weights_I=np.append(chosen_I[1:], False),  # a segment's first token is never chosen
            visible_I=np.ones(len(chosen_I), bool),
        )  # fmt: skip

    def baseline(self, batch: Batch, corpus: Corpus) -> tuple[str, np.ndarray]:
        """One chosen token in ten was left as it is."""
        stands_BT, weights_BT = np.roll(batch.tokens_BT, -1, axis=1), batch.weights_BT
        commonest = np.bincount(np.ravel(batch.targets_BT), np.ravel(weights_BT)).argmax()
        said_BT = np.where(stands_BT == corpus.tokenizer.mask, commonest, stands_BT)
        correct_BT = np.where(weights_BT > 0, said_BT == batch.targets_BT, 0.0)
        return "the token that stands there, the commonest for a mask", correct_BT

    def chosen(self, text: Text) -> np.ndarray:
        """The tokens to predict, bool [I]: of each piece a share `rate`, rounded, of its tokens, at least one.

        Words that would go beyond it are left out, unless they are the only one; of a span of single tokens the rest.
        """
        rate_P = self.rate + (self.final_rate - self.rate) * text.progress_R[text.row_P]
        return choose_spans(text, rate_P, self.span, self.unit == "word")


def choose_spans(text: Text, rate_P: np.ndarray, span: int, whole_words: bool) -> np.ndarray:
    """Spans of 1 to `span` units, in random places, until max(1, round(rate x tokens)) of a piece are chosen; [I]."""
    may_I = text.corpus.is_ordinary_V[text.token_I] & (text.position_I > 0)
    place = np.flatnonzero(may_I)  # M tokens that may be chosen
    if len(place) == 0:
        return may_I
    piece_M = text.piece_I[place]
    new_piece_M = np.append(True, piece_M[1:] != piece_M[:-1])
    if whole_words:
        starts_M = new_piece_M | ((text.mark_I[place] & WORD_START) > 0)
    else:
        starts_M = np.ones(len(place), bool)
    unit_M = np.cumsum(starts_M) - 1
    # spans: the lengths drawn for a piece's units in turn, laid end to end
    first_U = np.flatnonzero(starts_M)  # U units
    piece_U = piece_M[first_U]
    length_U = 1 + (text.chance(0)[place[first_U]] * span).astype(np.int64)
    begin_U = np.cumsum(length_U) - length_U
    of_piece_U = np.searchsorted(piece_U, piece_U, side="left")
    at_U = of_piece_U + begin_U - begin_U[of_piece_U]  # the unit at which each span would begin
    begins_U = np.zeros(len(first_U), bool)
    inside = (at_U < len(first_U)) & (piece_U[np.minimum(at_U, len(first_U) - 1)] == piece_U)
    begins_U[at_U[inside]] = True
    span_U = np.cumsum(begins_U) - 1
    span_M = span_U[unit_M]
    # tokens are taken by their span's lot, those of a span by place
    rank_M = ranks(piece_M, text.chance(1)[place[first_U[begins_U]]][span_M])
    count_P = np.bincount(piece_M, minlength=len(text.length_P))
    wanted_P = np.maximum(1, np.round(rate_P * count_P))
    taken_M = rank_M < wanted_P[piece_M]
    if whole_words:  # a word whose last token is beyond the count is left out, the piece's first one cut nowhere
        last_rank_U = np.maximum.reduceat(rank_M, first_U)
        first_rank_U = np.minimum.reduceat(rank_M, first_U)
        whole_U = (last_rank_U < wanted_P[piece_U]) | (first_rank_U == 0)
        taken_M = whole_U[unit_M]
    chosen_I = np.zeros(len(text.token_I), bool)
    chosen_I[place[taken_M]] = True
    return chosen_I


def hidden(text: Text, chosen_I: np.ndarray) -> np.ndarray:
    """The tokens with the chosen ones masked, replaced by any other token, or left; i32 [I]."""
    lot_I, corpus = text.chance(2), text.corpus
    other_I = corpus.ordinary_V[(text.chance(3) * len(corpus.ordinary_V)).astype(np.int64)]
    corrupted_I = np.where(lot_I < MASKED + REPLACED, other_I, text.token_I)
    assert corpus.tokenizer.mask is not None  # data.prepare sees to it
    return np.where(chosen_I, np.where(lot_I < MASKED, corpus.tokenizer.mask, corrupted_I), text.token_I)
