"""Which source fills row r, and what row r of a source holds: arithmetic on (data, seed, r), without state.

Sources take turns by counter, so that every stretch of a run has the promised proportions.

Documents, ordered by the hash of their text, fall into blocks of at most 64k. A block joins its documents and cuts the
result into rows of T tokens. Every epoch has the same number of rows, and its own order of blocks, documents and rows.
Axes: R rows asked for  P pieces (parts of documents) that fill them  I documents of a block.
"""

import functools
from typing import NamedTuple

import numpy as np

from data.rows.mixture import RATE_UNIT
from data.token_store import TokenStore, scramble

BLOCK_DOCUMENTS = 65_536


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


class Pieces(NamedTuple):
    """Runs of tokens that fill rows, in row order."""

    row_P: np.ndarray  # i64: which of the rows asked for
    column_P: np.ndarray  # i64: first position of the piece in its row
    start_P: np.ndarray  # i64: first token, as an index into the source's tokens
    length_P: np.ndarray  # i64: tokens
    document_end_P: np.ndarray  # i64: one past the last token of the document that the piece is cut from
    document_P: np.ndarray  # i64: document number, as stored
    epoch_P: np.ndarray  # i64


class RowPlan:
    """Rows of T tokens for training; row r exists for every r >= 0, through as many epochs as that takes.

    Raises ValueError if the source is too short for one row.
    """

    def __init__(self, store: TokenStore, T: int, key: tuple[int, ...]):
        self._store, self._T, self._key = store, T, key
        blocks = -(-store.documents // BLOCK_DOCUMENTS) or 1
        self._block_documents = np.array_split(np.argsort(store.hash_D, kind="stable"), blocks)
        length_D = np.diff(store.offset_D)
        self._block_tokens = np.array([int(length_D[documents].sum()) for documents in self._block_documents])
        self._block_rows = self._block_tokens // T
        self.rows_per_epoch = int(self._block_rows.sum())
        if self.rows_per_epoch == 0:
            raise ValueError(
                f"too little text for a row of T={T}: {T} tokens needed, {int(length_D.sum())} found; "
                "use more text or a smaller T"
            )
        self._plan = functools.lru_cache(maxsize=4)(self._plan_block)

    def pieces(self, row_R: np.ndarray) -> Pieces:
        """What fills the rows with these numbers."""
        epoch_R, within_R = np.divmod(np.asarray(row_R, np.int64), self.rows_per_epoch)
        found = []
        for epoch in np.unique(epoch_R):
            of_epoch = np.flatnonzero(epoch_R == epoch)
            order = np.argsort(scramble(np.arange(len(self._block_rows)), *self._key, epoch), kind="stable")
            end_of_block = np.cumsum(self._block_rows[order])
            turn = np.searchsorted(end_of_block, within_R[of_epoch], side="right")
            for visited in np.unique(turn):
                asked = of_epoch[turn == visited]
                block = int(order[visited])
                row_in_block = within_R[asked] - (end_of_block[visited] - self._block_rows[block])
                found.append((asked, int(epoch), self._plan(int(epoch), block), row_in_block))
        return _join([self._fill(*parts) for parts in found])

    def _plan_block(self, epoch: int, block: int):
        """(documents in this epoch's order, where each begins, the order of rows, tokens skipped at the front)."""
        key = (*self._key, epoch, block)
        document_I = self._block_documents[block]
        document_I = document_I[np.argsort(scramble(self._store.hash_D[document_I], *key), kind="stable")]
        begin_I = np.zeros(len(document_I) + 1, np.int64)
        np.cumsum(self._store.offset_D[document_I + 1] - self._store.offset_D[document_I], out=begin_I[1:])
        row_order = np.argsort(scramble(np.arange(self._block_rows[block]), *key, 1), kind="stable")
        spare = int(self._block_tokens[block] - self._block_rows[block] * self._T)
        skipped = int(scramble(np.arange(1), *key, 2)[0] % np.uint64(spare + 1))
        return document_I, begin_I, row_order, skipped

    def _fill(self, asked: np.ndarray, epoch: int, plan, row_in_block: np.ndarray) -> Pieces:
        document_I, begin_I, row_order, skipped = plan
        first_R = skipped + row_order[row_in_block] * self._T
        return cut(self._store, document_I, begin_I, first_R, np.full_like(first_R, self._T), asked, epoch)


class SequentialPlan:
    """Rows of T tokens that read a source once, from its first token, as stored; the last row may be short."""

    def __init__(self, store: TokenStore, T: int):
        self._store, self._T = store, T
        self.rows_per_epoch = -(-len(store.tokens) // T)

    def pieces(self, row_R: np.ndarray) -> Pieces:
        first_R = np.asarray(row_R, np.int64) * self._T
        length_R = np.clip(len(self._store.tokens) - first_R, 0, self._T)
        documents = np.arange(self._store.documents)
        return cut(
            self._store, documents, np.asarray(self._store.offset_D), first_R, length_R, np.arange(len(row_R)), 0
        )


def cut(store: TokenStore, document_I, begin_I, first_R, length_R, asked_R, epoch: int) -> Pieces:
    """Pieces of rows that cover [first, first + length) of the stream in which document_I[n] begins at begin_I[n]."""
    filled = length_R > 0
    first_R, length_R, asked_R = first_R[filled], length_R[filled], asked_R[filled]
    n_first_R = np.searchsorted(begin_I, first_R, side="right") - 1
    n_last_R = np.searchsorted(begin_I, first_R + length_R, side="left") - 1
    count_R = n_last_R - n_first_R + 1
    of_row_P = np.repeat(np.arange(len(first_R)), count_R)
    n_P = n_first_R[of_row_P] + np.arange(len(of_row_P)) - np.repeat(np.cumsum(count_R) - count_R, count_R)
    from_P = np.maximum(begin_I[n_P], first_R[of_row_P])
    until_P = np.minimum(begin_I[n_P + 1], (first_R + length_R)[of_row_P])
    document_P = document_I[n_P]
    return Pieces(
        row_P=asked_R[of_row_P],
        column_P=from_P - first_R[of_row_P],
        start_P=store.offset_D[document_P] + from_P - begin_I[n_P],
        length_P=until_P - from_P,
        document_end_P=store.offset_D[document_P + 1],
        document_P=document_P,
        epoch_P=np.full(len(n_P), epoch, np.int64),
    )


def _join(parts: list[Pieces]) -> Pieces:
    joined = Pieces(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    if len(parts) == 1:
        return joined
    order = np.argsort(joined.row_P, kind="stable")
    return Pieces(*(array[order] for array in joined))
