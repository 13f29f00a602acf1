"""The training rows of a run, which may have been continued with another batch size.

Two clocks: schedules run by steps, amounts by rows. Which tasks have a row, weights in the loss, the learning rate and
what thaws go by the share of `steps` that is done; `stop.tokens`, `stop.epochs` and every count of tokens go by the
rows that were read. What depends on how much text a run reads in all (`data.mixture` unimax,
`objectives.by_repetition`) is settled by the recipe, as if its batches had always been of this size.
"""

import copy

import numpy as np

from data.rows.rows import Rows


class RunRows(Rows):
    """Rows by number, whose share of the run is that of the step that reads them."""

    _ahead = 0  # rows that a run of this batch size would have read more than this one had, where it goes on

    def progress(self, row_R: np.ndarray) -> np.ndarray:
        """Share of the run that lies before each row."""
        return super().progress(np.asarray(row_R, np.int64) + self._ahead)

    def from_step(self, step: int, row: int, rows_a_step: int) -> "RunRows":
        """The same rows for a run that goes on after `step` steps, with `row`, in steps of so many rows."""
        moved = copy.copy(self)
        moved._ahead = step * rows_a_step - row
        return moved
