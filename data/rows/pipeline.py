"""From rows by number to batches made ahead: tf.data, which sees no accelerator and keeps no state."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from data.rows.rows import HeldOutRows, Rows
from gptjax.batch import Batch

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

WORKERS = 2  # threads that make batches ahead
CALL_TOKENS = 65_536  # tokens that one call makes at least
DTYPES = Batch(
    *(tf.int32, tf.int32, tf.float32, tf.int32, tf.int32, tf.int32, tf.bool),
    *(tf.int32, tf.float32, tf.int32, tf.int32, tf.float32),
)  # fmt: skip


def training_batches(
    rows: Rows,
    *,
    first_row: int,
    steps: int,
    micro_batches: int,
    B: int,
    keep: slice | np.ndarray = slice(None),
) -> Iterator[Batch]:
    """Batches [A, B, T] of consecutive rows, A micro-batches each; `keep` is this host's share of every B rows."""
    row_AB = np.arange(micro_batches * B).reshape(micro_batches, B)[:, keep]

    def build(step_G):
        row_GAB = first_row + step_G[:, None, None] * micro_batches * B + row_AB
        batch = rows.batch(row_GAB.ravel())
        return [array.reshape(*row_GAB.shape, *array.shape[1:]) for array in batch]

    return _ahead(build, steps, tokens=row_AB.size * rows.T)


def validation_batches(rows: HeldOutRows, B: int, T: int, keep: slice | np.ndarray = slice(None)) -> Iterator[Batch]:
    """Held-out rows in order, as batches [B, T]; the last is padded."""
    row_B = np.arange(B)[keep]

    def build(step_G):
        row_GB = step_G[:, None] * B + row_B
        batch = rows.batch(row_GB.ravel())
        return [array.reshape(*row_GB.shape, *array.shape[1:]) for array in batch]

    return _ahead(build, -(-rows.count // B), tokens=row_B.size * T)


def _ahead(build: Any, steps: int, tokens: int) -> Iterator[Batch]:
    """Batches 0, 1, ... of `steps`, in order, made ahead by build(step numbers [G]).

    Small batches, of few `tokens`, are built several at once: a call costs about as much as 4,000 tokens.
    """
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
    # taken apart here: tf.data's own unbatch ends the process where an array has no elements, as with C = 0
    groups = dataset.as_numpy_iterator()
    return (Batch(*(array[g] for array in arrays)) for arrays in groups for g in range(len(arrays[0])))
