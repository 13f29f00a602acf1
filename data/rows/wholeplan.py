"""Rows of whole examples: which row holds which, arithmetic on (data, seed, r) as for running text, and none is cut.

Examples are packed once, the longest first, each into the fullest row that has room for it (best fit decreasing:
Johnson 1974, "Fast algorithms for bin packing", section 3). So every epoch has the same rows, in an order of its own.
Axes: R rows asked for  P pieces (whole examples) that fill them  D examples  Y rows of an epoch.
"""

import functools

import numpy as np

from data.rows.rowplan import Pieces
from data.token_store import TokenStore, runs, scramble


class WholePlan:
    """Rows of at most T tokens for training; row r exists for every r >= 0, through as many epochs as that takes.

    `key` = None reads the rows once, in the order in which they were packed: of held-out text.
    `growth`: examples are packed as if they were longer by this share, where that is no more than a row.
    Raises ValueError if there is no example, or one is longer than a row.
    """

    def __init__(self, store: TokenStore, T: int, key: tuple[int, ...] | None, growth: float = 0.0):
        length_D = np.diff(store.offset_D)
        if not len(length_D):
            raise ValueError("there is no example in it")
        if (longest := int(length_D.max())) > T:
            raise ValueError(f"an example has {longest} tokens, and a row T={T}; prepare it again with rows as long")
        self._store, self._key = store, key
        length_D = np.minimum(T, np.ceil(length_D * (1 + growth)).astype(np.int64))
        self._document_D, self._first_Y = packing(length_D, np.asarray(store.hash_D), T)
        self.rows_per_epoch = len(self._first_Y) - 1
        self._order = functools.lru_cache(maxsize=4)(self._order_of)

    @property
    def most_of_a_row(self) -> int:
        """Examples in the row that has most."""
        return int(np.diff(self._first_Y).max())

    def pieces(self, row_R: np.ndarray) -> Pieces:
        """What fills the rows with these numbers."""
        epoch_R, within_R = np.divmod(np.asarray(row_R, np.int64), self.rows_per_epoch)
        y_R = np.zeros(len(epoch_R), np.int64)
        for epoch in np.unique(epoch_R):
            of_epoch = epoch_R == epoch
            y_R[of_epoch] = self._order(int(epoch))[within_R[of_epoch]]
        count_R = self._first_Y[y_R + 1] - self._first_Y[y_R]
        row_P = np.repeat(np.arange(len(y_R)), count_R)
        document_P = self._document_D[runs(self._first_Y[y_R], count_R)]
        start_P = np.asarray(self._store.offset_D)[document_P]
        stop_P = np.asarray(self._store.offset_D)[document_P + 1]
        before_P = np.cumsum(stop_P - start_P) - (stop_P - start_P)
        first_P = np.searchsorted(row_P, row_P, side="left")  # the first piece of the same row
        return Pieces(
            row_P=row_P, column_P=before_P - before_P[first_P], start_P=start_P, length_P=stop_P - start_P,
            document_end_P=stop_P, document_P=document_P, epoch_P=epoch_R[row_P],
        )  # fmt: skip

    def _order_of(self, epoch: int) -> np.ndarray:
        """The rows of an epoch in its order; i64 [Y]."""
        if self._key is None:
            return np.arange(self.rows_per_epoch)
        return np.argsort(scramble(np.arange(self.rows_per_epoch), *self._key, epoch), kind="stable")


def packing(length_D: np.ndarray, hash_D: np.ndarray, T: int) -> tuple[np.ndarray, np.ndarray]:
    """(examples, those of one row behind one another, i64 [D]; where each row begins among them and the end, [Y + 1]).

    Equal lengths go by hash, so that the packing does not depend on the order in which the examples are stored.
    """
    free_Y: list[int] = []  # tokens that are left in each row
    with_room: list[list[int]] = [[] for _ in range(T + 1)]  # rows by the tokens that are left in them
    has_room = np.zeros(T + 1, bool)
    row_D = np.zeros(len(length_D), np.int64)
    for d in np.lexsort((hash_D, -length_D)).tolist():
        length = int(length_D[d])
        free = length + int(has_room[length:].argmax())
        if has_room[free]:
            y = with_room[free].pop()
            has_room[free] = bool(with_room[free])
        else:
            y, free = len(free_Y), T
            free_Y.append(T)
        free_Y[y] = free - length
        with_room[free_Y[y]].append(y)
        has_room[free_Y[y]] = True
        row_D[d] = y
    order_D = np.lexsort((hash_D, row_D))
    return order_D, np.searchsorted(row_D[order_D], np.arange(len(free_Y) + 1))
