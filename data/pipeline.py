"""From prepared folders to batches: rows by number, in tf.data, which sees no accelerator and keeps no state."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from data.mixture import assign
from data.rowplan import Pieces, RowPlan, SequentialPlan, TokenStore
from data.tasks import causal_lm
from gptjax.batch import Batch

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

DTYPES = Batch(
    *(tf.int32, tf.int32, tf.float32, tf.int32, tf.int32, tf.int32, tf.bool),
    *(tf.int32, tf.float32, tf.int32, tf.int32, tf.float32),
)  # fmt: skip


class Rows:
    """Training rows of a prepared mixture, by number: row r is the same from any start, on any host, in any batch."""

    def __init__(self, prepared: Path, T: int, seed: int):
        description = json.loads((prepared / "prepared.json").read_text(encoding="utf-8"))["sources"]
        self.sources = tuple(description)
        self.T = T
        self._rates = tuple(source["rate"] for source in description.values())
        self._stores = [TokenStore(prepared / source["folder"] / "train") for source in description.values()]
        self.plans = []
        for place, (name, store) in enumerate(zip(self.sources, self._stores, strict=True)):
            try:
                self.plans.append(RowPlan(store, T, (seed, place)))
            except ValueError as error:
                raise ValueError(f"source {name!r}: {error}") from error

    def batch(self, row_R: np.ndarray) -> Batch:
        """The rows with these numbers, in this order."""
        source_R, within_R = assign(row_R, self._rates)
        batches, places = [], []
        for source in np.unique(source_R):
            place = np.flatnonzero(source_R == source)
            pieces = self.plans[source].pieces(within_R[place])
            batches.append(causal_lm.build(pieces, self._stores[source].tokens, len(place), self.T))
            places.append(place)
        back = np.argsort(np.concatenate(places))
        return Batch(*(np.concatenate(arrays)[back] for arrays in zip(*batches, strict=True)))

    def source_of(self, row: int) -> str:
        """Name of the source that fills a row."""
        source_R, _ = assign(np.array([row]), self._rates)
        return self.sources[source_R[0]]


def training_batches(
    rows: Rows, *, first_row: int, steps: int, micro_batches: int, B: int, keep: slice | np.ndarray = slice(None)
) -> Iterator[Batch]:
    """Batches [A, B, T] of consecutive rows, A micro-batches each; `keep` is this host's share of every B rows."""

    def build(step):
        row = (
            first_row + int(step) * micro_batches * B + np.arange(micro_batches * B).reshape(micro_batches, B)[:, keep]
        )
        batch = rows.batch(row.ravel())
        return [array.reshape(*row.shape, *array.shape[1:]) for array in batch]

    return _parallel(build, steps)


def validation_batches(
    folder: Path, T: int, B: int, most_rows: int, keep: slice | np.ndarray = slice(None)
) -> Iterator[Batch]:
    """A validation split read once, in order, as batches [B, T] of at most `most_rows` rows; the last is padded."""
    store = TokenStore(folder)
    plan = SequentialPlan(store, T)
    count = min(plan.rows_per_epoch, most_rows)

    def build(step):
        row = int(step) * B + np.arange(B)[keep]
        pieces = plan.pieces(row)
        wanted = row[pieces.row_P] < count
        return list(causal_lm.build(Pieces(*(array[wanted] for array in pieces)), store.tokens, len(row), T))

    return _parallel(build, -(-count // B))


def _parallel(build: Any, steps: int) -> Iterator[Batch]:
    """build(0), build(1), ... in order, made ahead on two threads."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = 2
    dataset = (
        tf.data.Dataset.range(steps)
        .map(lambda step: tf.numpy_function(build, [step], list(DTYPES)), num_parallel_calls=2, deterministic=True)
        .prefetch(4)
        .with_options(options)
    )
    return (Batch(*arrays) for arrays in dataset.as_numpy_iterator())
