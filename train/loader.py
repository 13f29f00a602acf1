"""From rows by number to batches on the devices, made ahead: tf.data, which sees no accelerator and keeps no state.

Axes: A micro-batch  B batch  T position  G steps that are made in one call.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import tensorflow as tf
from jax.sharding import Mesh

from data.rows.rows import HeldOutRows, Rows
from gptjax.batch import Batch
from gptjax.sharding import batch_sharding, held_rows

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

WORKERS = 2  # threads that make batches ahead
CALL_TOKENS = 65_536  # tokens that one call makes at least
DTYPES = Batch(
    *(tf.int32, tf.int32, tf.float32, tf.int32, tf.int32, tf.int32, tf.bool),
    *(tf.int32, tf.float32, tf.int32, tf.int32, tf.float32),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Loader:
    """Batches over the mesh. Every host makes the rows that its own devices hold, and no others."""

    mesh: Mesh
    rows: int  # of a step
    micro_batches: int
    micro_rows: int

    def training(self, rows: Rows, first_row: int, steps: int) -> Iterator[Batch]:
        """The batches [A, B, T] of `steps` steps from `first_row` on."""
        return self._placed(self.training_here(rows, first_row, steps), leading=1)

    def training_here(self, rows: Rows, first_row: int, steps: int) -> Iterator[Batch]:
        """The same as this host makes them, in its own memory."""
        return training_batches(
            rows, first_row=first_row, steps=steps, step_rows=self.rows,
            micro_batches=self.micro_batches, B=self.micro_rows, keep=self._own(),
        )  # fmt: skip

    def held_out(self, rows: HeldOutRows) -> Iterator[Batch]:
        """Held-out rows in order, as batches [B, T]; the last is padded."""
        return self._placed(validation_batches(rows, self.micro_rows, self._own()), leading=0)

    def of(self, batch: Batch) -> Batch:
        """A batch [B, T] that every host has in whole."""
        [placed] = self._placed(iter([Batch(*(array[self._own()] for array in batch))]), leading=0)
        return placed

    def _own(self) -> Any:
        """Numbers of the rows of a micro-batch that this host's devices hold."""
        return held_rows(self.mesh, self.micro_rows, self.mesh.local_devices)

    def _placed(self, batches: Iterator[Batch], leading: int) -> Iterator[Batch]:
        """Every host's rows as one array over the mesh; `leading` axes come before the row axis."""
        place = batch_sharding(self.mesh, leading)
        for batch in batches:
            yield Batch(*(jax.make_array_from_process_local_data(place, array) for array in batch))


def training_batches(
    rows: Rows,
    *,
    first_row: int,
    steps: int,
    micro_batches: int,
    B: int,
    keep: slice | np.ndarray = slice(None),
    step_rows: int | None = None,
) -> Iterator[Batch]:
    """Batches [A, B, T] of consecutive rows, A micro-batches each; `keep` is this host's share of every B rows.

    `step_rows`: rows of a step; what A micro-batches hold beyond them is padding. None = so many as they hold.
    """
    row_AB = np.arange(micro_batches * B).reshape(micro_batches, B)[:, keep]
    count = micro_batches * B if step_rows is None else step_rows

    def rows_of(step_G: np.ndarray) -> np.ndarray:
        return first_row + step_G[:, None, None] * count + np.minimum(row_AB, count - 1)

    return _ahead(rows, rows_of, steps, tokens=row_AB.size * rows.T, padding=row_AB >= count)


def validation_batches(rows: HeldOutRows, B: int, keep: slice | np.ndarray = slice(None)) -> Iterator[Batch]:
    """Held-out rows in order, as batches [B, T]; the last is padded."""
    row_B = np.arange(B)[keep]
    return _ahead(rows, lambda step_G: step_G[:, None] * B + row_B, -(-rows.count // B), tokens=row_B.size * rows.T)


def _ahead(
    rows: Rows | HeldOutRows,
    rows_of: Callable[[np.ndarray], np.ndarray],
    steps: int,
    tokens: int,
    padding: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Batches 0, 1, ... of `steps`, in order, made ahead; `rows_of(step numbers [G])` are the numbers of their rows.

    Small batches, of few `tokens`, are built several at once: a call costs about as much as 4,000 tokens. `padding`:
    which rows of a batch are emptied, whatever their number.
    """

    def build(step_G: np.ndarray) -> list[np.ndarray]:
        number = rows_of(step_G)
        arrays = [array.reshape(*number.shape, *array.shape[1:]) for array in rows.batch(number.ravel())]
        if padding is not None and padding.any():
            for array in arrays:
                array[:, padding] = 0
        return arrays

    group = max(1, CALL_TOKENS // max(1, tokens))
    options = tf.data.Options()
    options.threading.private_threadpool_size = WORKERS
    dataset = (
        tf.data.Dataset.range(steps)
        .batch(group)
        .map(lambda step_G: tf.numpy_function(build, [step_G], list(DTYPES)), WORKERS, deterministic=True)
        .prefetch(2)
        .with_options(options)
    )
    # taken apart here: tf.data's own unbatch ends the process where an array has no elements, as with Q = 0
    groups = dataset.as_numpy_iterator()
    return (Batch(*(array[g] for array in arrays)) for arrays in groups for g in range(len(arrays[0])))
