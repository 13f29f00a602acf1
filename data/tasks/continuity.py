"""Sentence continuity: does the second block follow the first, come before it, or belong to another document?

Source: Wang et al. 2019, "StructBERT", arXiv:1908.04577, section 2.2 (three classes); Lan et al. 2019, "ALBERT",
arXiv:1909.11942, section 3.1 (order must be asked for, since topic alone tells a foreign block).
Axes: P pieces  S pairs of blocks, segments  X candidates for a foreign block  F those of them that are looked at.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from data.tasks.blocks import chain, check_lengths, documents, sentence_stops
from data.tasks.task import Corpus, Targets, Task, Text, fitting, packed, uniform
from data.token_store import TokenStore, runs, scramble
from gptjax.batch import Batch

HEAD = "continuity"
CLASSES = ("next", "swapped", "random")
PARTS = 7  # blocks that a document has room for: in one of fewer, the words of a block tell where it stands
CANDIDATES = 32  # places where a foreign block is looked for
TOLERANCE = 0.1  # by which its length may differ from that of the block that it replaces


@dataclasses.dataclass(frozen=True, kw_only=True)
class Continuity(Task):
    """Sentence continuity: whether two blocks of sentences are neighbours, and in their order.

    A block alone tells nothing, nor do lengths: pairs lie anywhere in a document but at its opening, and a foreign
    block is the first or second of a pair that was cut from its document by the same rule.
    """

    shortest: int = 16  # tokens of a block
    longest: int = 96  # the same

    loss: ClassVar[str] = "pairs"
    auxiliary: ClassVar[bool] = True
    compares: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_lengths(self.shortest, self.longest)

    def heads(self, corpus: Corpus) -> dict[str, tuple[str, ...]]:
        return {HEAD: CLASSES}

    def targets_a_row(self, corpus: Corpus, T: int) -> int:
        """Raises ValueError where two blocks do not fit in a row."""
        least = 2 * self.shortest + 3
        if least > T:
            raise ValueError(
                f"shortest={self.shortest}: two such blocks, BOS and two EOS are {least} tokens, too many for a row of "
                f"T={T}; use {(T - 3) // 2} or less, or longer rows"
            )
        return T // least

    def build(self, text: Text) -> Batch:
        """Segments BOS A EOS B EOS with one target each, at the start of B. A row without a pair is padding.

        A is visible to all, B to its later tokens only: what stands in B can tell by that that it does.
        """
        piece_S, least_S, begin_S, middle_S, stop_S = self.pairs(text)
        key_S = text.key_P[piece_S] + (begin_S - text.first_P[piece_S]).astype(np.uint64)
        second_S = uniform(key_S, 0) < 0.5  # of two neighbours, whether the second one would be replaced
        own_S = np.where(second_S, stop_S - middle_S, middle_S - begin_S)
        foreign_S, length_S = self.foreign(text, piece_S, least_S, key_S, second_S, own_S)
        # which pairs are used is settled before their classes are drawn
        row_S = text.row_P[piece_S]
        kept_S = length_S > 0
        most_S = stop_S - begin_S + np.maximum(length_S - own_S, 0) + 3  # tokens of the segment, in any class
        kept_S[kept_S] = fitting(row_S[kept_S], most_S[kept_S], text.T)
        piece_S, row_S, begin_S, middle_S, stop_S, key_S, second_S, foreign_S, length_S = (
            array[kept_S] for array in (piece_S, row_S, begin_S, middle_S, stop_S, key_S, second_S, foreign_S, length_S)
        )
        class_S = (uniform(key_S, 1) * 3).astype(np.int64)

        # one array of all tokens: of the text, of the foreign blocks, and the two that frame blocks
        corpus = text.corpus
        foreign_tokens = np.zeros(length_S.sum(), np.int32)
        source_of_token = np.repeat(text.source_P[piece_S], length_S)
        place = runs(foreign_S, length_S)
        for source in np.unique(source_of_token):
            here = source_of_token == source
            foreign_tokens[here] = corpus.stores[source].tokens[place[here]]
        tokens = np.concatenate([text.token_I, foreign_tokens, [corpus.tokenizer.bos, corpus.tokenizer.eos]])
        bos, eos = np.full((2, len(class_S)), [[len(tokens) - 2], [len(tokens) - 1]])

        first = (begin_S, middle_S - begin_S)
        after = (middle_S, stop_S - middle_S)
        other = (len(text.token_I) + np.cumsum(length_S) - length_S, length_S)
        swapped_S, random_S = class_S == 1, class_S == 2
        a = np.where(swapped_S | (random_S & ~second_S), after, first)
        b = np.where(random_S, other, np.where(swapped_S, first, after))
        one = np.ones_like(class_S)
        begin_S5 = np.stack([bos, a[0], eos, b[0], eos], 1)
        length_S5 = np.stack([one, a[1], one, b[1], one], 1)
        tokens_I = tokens[runs(begin_S5.ravel(), length_S5.ravel())]
        of_a_I = np.repeat(np.tile([True, True, True, False, False], len(class_S)), length_S5.ravel())
        return packed(
            text, row_S, length_S5.sum(1), tokens_I, visible_I=of_a_I,
            targets=Targets(np.arange(len(class_S)), np.zeros_like(class_S), class_S, length_S5[:, :3].sum(1)),
            Q=self.targets_a_row(text.corpus, text.T),
        )  # fmt: skip

    def pairs(self, text: Text) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Neighbouring blocks: (piece, least length of its blocks, begin, middle, stop); i64 [S].

        The last three are indices into the tokens of the text.
        """
        begin_P, stop_P = documents(text)
        most_P = self.most(stop_P - begin_P)
        least_P = self.shortest + (text.chance_of_pieces(0) * (most_P - self.shortest + 1)).astype(np.int64)
        opening_P = np.maximum(0, begin_P + 1 + self.shortest - text.start_P)  # tokens of the piece
        lead_P = (text.chance_of_pieces(1) * 2 * least_P).astype(np.int64)  # or a document's first would never be B
        place_P = text.first_P + opening_P + np.where(opening_P > 0, lead_P, 0)
        end_P = np.where(most_P < self.shortest, 0, text.first_P + text.length_P)
        piece_X, begin_X, stop_X = chain(text.mark_I, sentence_stops(text.mark_I, place_P), least_P, end_P)
        even_X = (np.arange(len(piece_X)) - np.searchsorted(piece_X, piece_X)) % 2 == 0
        first_S = np.flatnonzero(even_X[:-1] & (piece_X[1:] == piece_X[:-1]))
        good_X = self.good(stop_X - begin_X)
        first_S = first_S[good_X[first_S] & good_X[first_S + 1]]
        piece_S = piece_X[first_S]
        return piece_S, least_P[piece_S], begin_X[first_S], stop_X[first_S], stop_X[first_S + 1]

    def most(self, document_length: np.ndarray) -> np.ndarray:
        """What `least length` goes up to in documents so long; below `shortest` for too short ones."""
        return np.minimum((self.shortest + self.longest) // 2, (document_length - 2 - self.shortest) // PARTS)

    def good(self, length: np.ndarray) -> np.ndarray:
        """Whether a block has a length that is wanted."""
        return (self.shortest <= length) & (length <= self.longest)

    def foreign(self, text: Text, piece_S, least_S, key_S, second_S, own_S) -> tuple[np.ndarray, np.ndarray]:
        """(place in the tokens of the source, length) of a block of another document about `own_S` long, i64 [S].

        Length 0: none was found.
        """
        place_S, length_S = np.zeros((2, len(piece_S)), np.int64)
        source_S, document_S = text.source_P[piece_S], text.document_P[piece_S]
        for source in np.unique(source_S):
            here = source_S == source
            store = text.corpus.stores[source]
            place_S[here], length_S[here] = self.nearest(
                store, document_S[here], least_S[here], scramble(key_S[here], 2), second_S[here], own_S[here]
            )
        return place_S, length_S

    def nearest(self, store: TokenStore, document_S, least_S, key_S, second_S, own_S) -> tuple[np.ndarray, np.ndarray]:
        """`foreign` in one source: pairs are cut at random places, as those of the text are, and the one whose first or
        second block is nearest in length is taken."""
        key_SX = key_S[:, None] + np.arange(CANDIDATES, dtype=np.uint64)
        place_SX = (uniform(key_SX, 0) * len(store.tokens)).astype(np.int64)
        document_SX = np.searchsorted(store.offset_D, place_SX, side="right") - 1
        most_SX = self.most(store.offset_D[document_SX + 1] - store.offset_D[document_SX])
        usable_SX = (
            (document_SX != document_S[:, None])
            & (most_SX >= least_S[:, None])
            & (place_SX >= store.offset_D[document_SX] + 1 + self.shortest)
        )
        place_F = place_SX[usable_SX]
        least_F = np.broadcast_to(least_S[:, None], usable_SX.shape)[usable_SX]
        window = 3 * self.longest
        row_F = np.arange(len(place_F)) * window
        read_FW = np.minimum(place_F[:, None] + np.arange(window), len(store.tokens) - 1)
        mark_I = store.marks[read_FW].ravel()
        begin_F = sentence_stops(mark_I, row_F)
        middle_F = sentence_stops(mark_I, begin_F + least_F - 1)
        stop_F = sentence_stops(mark_I, middle_F + least_F - 1)
        room_F = np.minimum(window, store.offset_D[document_SX[usable_SX] + 1] - place_F)
        good_F = self.good(middle_F - begin_F) & self.good(stop_F - middle_F) & (stop_F <= row_F + room_F)
        second_F = np.broadcast_to(second_S[:, None], usable_SX.shape)[usable_SX]
        found_SX, length_SX = np.zeros_like(place_SX), np.zeros_like(place_SX)
        found_SX[usable_SX] = place_F + np.where(second_F, middle_F, begin_F) - row_F
        length_SX[usable_SX] = good_F * np.where(second_F, stop_F - middle_F, middle_F - begin_F)
        best_S1 = np.argmin(np.abs(length_SX - own_S[:, None]), 1, keepdims=True)
        place_S, length_S = (np.take_along_axis(array, best_S1, 1)[:, 0] for array in (found_SX, length_SX))
        return place_S, np.where(np.abs(length_S - own_S) <= TOLERANCE * own_S, length_S, 0)
