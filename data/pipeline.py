"""From prepared folders to batches: rows by number, in tf.data, which sees no accelerator and keeps no state."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from data.mixture import assign, mixture_rates
from data.rowplan import Pieces, RowPlan, SequentialPlan, TokenStore
from data.tasks import causal_lm
from gptjax.batch import Batch

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

WORKERS = 2  # threads that make batches ahead
CALL_TOKENS = 32_768  # tokens that one call makes at least
DTYPES = Batch(
    *(tf.int32, tf.int32, tf.float32, tf.int32, tf.int32, tf.int32, tf.bool),
    *(tf.int32, tf.float32, tf.int32, tf.int32, tf.float32),
)  # fmt: skip


class Rows:
    """Training rows of a prepared mixture, by number: row r is the same from any start, on any host, in any batch.

    `horizon` is how many tokens the whole run reads; only a mixture with an epoch cap depends on it.
    """

    def __init__(self, prepared: Path, T: int, seed: int, horizon: int | None = None):
        description = json.loads((prepared / "prepared.json").read_text(encoding="utf-8"))
        sources = description["sources"]
        self.sources = tuple(sources)
        self.T = T
        self._stores = [TokenStore(prepared / source["folder"] / "train") for source in sources.values()]
        shares = {name: source["share"] for name, source in sources.items()}
        sizes = {name: len(store.tokens) for name, store in zip(sources, self._stores, strict=True)}
        self.tokens = sum(sizes.values())  # of the whole text
        self.rates = mixture_rates(description["mixture"], shares, sizes, horizon)
        self._rates = tuple(self.rates.values())
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


def validation_batches(
    folder: Path, T: int, B: int, most_rows: int, keep: slice | np.ndarray = slice(None)
) -> Iterator[Batch]:
    """A validation split read once, in order, as batches [B, T] of at most `most_rows` rows; the last is padded."""
    store = TokenStore(folder)
    plan = SequentialPlan(store, T)
    count = min(plan.rows_per_epoch, most_rows)
    row_B = np.arange(B)[keep]

    def build(step_G):
        row_GB = step_G[:, None] * B + row_B
        pieces = plan.pieces(row_GB.ravel())
        wanted = row_GB.ravel()[pieces.row_P] < count
        batch = causal_lm.build(Pieces(*(array[wanted] for array in pieces)), store.tokens, row_GB.size, T)
        return [array.reshape(*row_GB.shape, *array.shape[1:]) for array in batch]

    return _ahead(build, -(-count // B), tokens=row_B.size * T)


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
