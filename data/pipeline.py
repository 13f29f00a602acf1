"""From prepared folders to batches: rows by number, in tf.data, which sees no accelerator and keeps no state."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from data.mixture import RATE_UNIT, assign, lay_out, mixture_rates, pattern
from data.rowplan import Pieces, RowPlan, SequentialPlan, TokenStore, scramble
from data.tasks.causal_lm import CausalLM
from data.tasks.task import Corpus, Task, Text
from gptjax.batch import Batch
from gptjax.config import did_you_mean
from gptjax.tokenizer import Tokenizer

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

WORKERS = 2  # threads that make batches ahead
CALL_TOKENS = 65_536  # tokens that one call makes at least
VALIDATION_SEED = 2**32  # of chance in held-out text: no run has it
DTYPES = Batch(
    *(tf.int32, tf.int32, tf.float32, tf.int32, tf.int32, tf.int32, tf.bool),
    *(tf.int32, tf.float32, tf.int32, tf.int32, tf.float32),
)  # fmt: skip


class Rows:
    """Training rows of a prepared mixture, by number: row r is the same from any start, on any host, in any batch.

    `horizon` is how many tokens the whole run reads; what changes with the run's progress depends on it. `tasks` are
    those of the run, by name; a task's id in a batch is its place among them, from 1.

    Raises ValueError where a source is too short for a row, or the tasks and the text do not fit.
    """

    def __init__(
        self, prepared: Path, T: int, seed: int, horizon: int | None = None, tasks: Mapping[str, Task] | None = None
    ):
        description = json.loads((prepared / "prepared.json").read_text(encoding="utf-8"))
        self.corpus = open_corpus(prepared, "train")
        self.sources = self.corpus.sources
        self.T, self._seed = T, seed
        shares = {name: source["share"] for name, source in description["sources"].items()}
        sizes = {name: len(store.tokens) for name, store in zip(self.sources, self.corpus.stores, strict=True)}
        self.tokens = sum(sizes.values())  # of the whole text
        self.horizon = horizon
        self.rates = mixture_rates(description["mixture"], shares, sizes, horizon)
        self._rates = tuple(self.rates.values())
        self.plans = []
        for place, (name, store) in enumerate(zip(self.sources, self.corpus.stores, strict=True)):
            try:
                self.plans.append(RowPlan(store, T, (seed, place)))
            except ValueError as error:
                raise ValueError(f"source {name!r}: {error}") from error
        self.builder = Builder(self.corpus, {"causal_lm": CausalLM()} if tasks is None else tasks, T)
        self.timetable = Timetable(self.builder.tasks, self.sources)

    def batch(self, row_R: np.ndarray) -> Batch:
        """The rows with these numbers, in this order."""
        return self.builder.batch(self.text(row_R), self.tasks_of(row_R))

    def text(self, row_R: np.ndarray) -> Text:
        """The text of the rows with these numbers, whatever tasks make of it."""
        row_R = np.asarray(row_R, np.int64)
        source_R, within_R = assign(row_R, self._rates)
        found = []
        for source in np.unique(source_R):
            place = np.flatnonzero(source_R == source)
            pieces = self.plans[source].pieces(within_R[place])
            found.append((int(source), pieces._replace(row_P=place[pieces.row_P])))
        return read_text(self.corpus, found, self.T, self.progress(row_R), self._seed)

    def progress(self, row_R: np.ndarray) -> np.ndarray:
        """Share of the run that lies before each row; of an endless run 0."""
        return np.zeros(len(row_R)) if self.horizon is None else np.minimum(1, row_R * self.T / self.horizon)

    def tasks_of(self, row_R: np.ndarray) -> np.ndarray:
        """The place of each row's task among the tasks."""
        row_R = np.asarray(row_R, np.int64)
        return self.timetable.tasks(self.progress(row_R), *assign(row_R, self._rates))

    def source_of(self, row: int) -> str:
        """Name of the source that fills a row."""
        source_R, _ = assign(np.array([row]), self._rates)
        return self.sources[source_R[0]]


def open_corpus(prepared: Path, split: str) -> Corpus:
    """One split of a prepared folder."""
    sources = json.loads((prepared / "prepared.json").read_text(encoding="utf-8"))["sources"]
    stores = tuple(TokenStore(prepared / source["folder"] / split) for source in sources.values())
    classes = {
        name: {field: tuple(names) for field, names in source["labels"].items()} for name, source in sources.items()
    }
    return Corpus(tuple(sources), stores, classes, Tokenizer.load(prepared / "tokenizer.json"))


def read_text(
    corpus: Corpus, found: Sequence[tuple[int, Pieces]], T: int, progress_R: np.ndarray, seed: int
) -> Text:
    """The text of pieces of several sources, in row order."""
    columns = []
    for source, pieces in found:
        store, start_P = corpus.stores[source], pieces.start_P
        stop_P = start_P + pieces.length_P
        goes_on_P = stop_P < pieces.document_end_P
        next_P = np.where(goes_on_P, store.tokens[np.where(goes_on_P, stop_P, 0)].astype(np.int64), -1)
        place_P = start_P - store.offset_D[pieces.document_P]
        # an id of the document that neither its source nor its number decides, and of the epoch
        key_P = scramble(store.hash_D[pieces.document_P], seed) + scramble(pieces.epoch_P, seed, 1)
        key_P = scramble(key_P, source) + place_P.astype(np.uint64)
        token = np.repeat(start_P - np.cumsum(pieces.length_P) + pieces.length_P, pieces.length_P)
        token += np.arange(len(token))
        columns.append(
            (pieces.row_P, np.full(len(start_P), source), pieces.document_P, start_P, next_P, key_P, pieces.length_P,
             store.tokens[token].astype(np.int32), store.marks[token])
        )  # fmt: skip
    *of_pieces, token_N, mark_N = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    order = np.argsort(of_pieces[0], kind="stable")
    length_P = of_pieces[-1]
    begin = np.cumsum(length_P) - length_P
    moved = np.repeat(begin[order] - np.cumsum(length_P[order]) + length_P[order], length_P[order])
    moved += np.arange(len(moved))
    return Text(corpus, T, progress_R, *(array[order] for array in of_pieces), token_N[moved], mark_N[moved])


class Timetable:
    """Which task makes which row: dealt out within each source by a counter of its own, and anew at each share of the
    run at which a task's rows change. So every stretch of every source has the promised shares of all tasks.
    """

    def __init__(self, tasks: Mapping[str, Task], sources: Sequence[str]):
        later = {share for task in tasks.values() for share, _, _ in task.later}
        self.starts = np.array([0.0, *sorted(later)])  # shares of the run
        shares_FSK = np.array([[_shares(tasks, source, start) for source in sources] for start in self.starts])
        self.shares_FSK = shares_FSK  # of phases, sources, tasks: the promised share of the source's rows
        self._rates = [[_rates(list(tasks), shares_K) for shares_K in shares_SK] for shares_SK in shares_FSK]

    def tasks(self, progress_R: np.ndarray, source_R: np.ndarray, within_R: np.ndarray) -> np.ndarray:
        """The place of each row's task, from its progress, its source and its number within that source."""
        phase_R = np.searchsorted(self.starts, progress_R, side="right") - 1
        task_R = np.zeros(len(source_R), np.int64)
        for phase, source in {*zip(phase_R.tolist(), source_R.tolist(), strict=True)}:
            here = (phase_R == phase) & (source_R == source)
            task_slot, _ = pattern(self._rates[phase][source])
            task_R[here] = task_slot[within_R[here] % RATE_UNIT]
        return task_R


def _shares(tasks: Mapping[str, Task], source: str, start: float) -> list[float]:
    """The share of a source's rows that each task has from a share of the run on."""
    shares = []
    for task in tasks.values():
        rows = [task.rows, *(rows for share, rows, _ in task.later if share <= start)][-1]
        shares.append(rows if not task.sources or source in task.sources else 0.0)
    if sum(shares) == 0:
        raise ValueError(f"objectives: no task reads source {source!r}; drop it, or name it in a task's sources")
    return [share / sum(shares) for share in shares]


def _rates(names: Sequence[str], shares_K: np.ndarray) -> tuple[int, ...]:
    """Rows of each task out of every 1024."""
    laid = lay_out({name: share for name, share in zip(names, shares_K.tolist(), strict=True) if share > 0})
    return tuple(laid.get(name, 0) for name in names)


class Builder:
    """Text to batches: each row by its task, with heads and targets where all tasks have them."""

    def __init__(self, corpus: Corpus, tasks: Mapping[str, Task], T: int):
        self.tasks = dict(tasks)
        active = {name: task for name, task in tasks.items() if task.ever}
        self.heads: dict[str, tuple[str, ...]] = {}  # name -> classes
        self._first_head = {}
        for name, task in active.items():
            for source in task.sources:
                if source not in corpus.sources:
                    raise ValueError(f"objectives.{name}.sources: {source!r}{did_you_mean(source, corpus.sources)}")
            self._first_head[name] = len(self.heads)
            try:
                self.heads |= task.heads(corpus)
            except ValueError as error:
                raise ValueError(f"objectives.{name}: {error}") from error
        self.C = max((task.targets_a_row(T) for task in active.values()), default=0)

    def batch(self, text: Text, task_R: np.ndarray) -> Batch:
        """The rows of a text, each made by the task at its place in `tasks`."""
        batches, places = [], []
        for k, (name, task) in enumerate(self.tasks.items()):
            place = np.flatnonzero(task_R == k)
            if len(place):
                batches.append(self._filled_in(task.build(text.of(place)), k + 1, self._first_head[name]))
                places.append(place)
        back = np.argsort(np.concatenate(places))
        return Batch(*(np.concatenate(arrays)[back] for arrays in zip(*batches, strict=True)))

    def _filled_in(self, batch: Batch, id: int, first_head: int) -> Batch:
        """A task's batch with its id, its heads counted among all, and as many targets as any task has."""
        missing = self.C - batch.label_BC.shape[1]
        wider = {
            name: np.pad(getattr(batch, name), ((0, 0), (0, missing)))
            for name in ("label_BC", "value_BC", "at_BC", "label_weight_BC")
        }
        head_BC = np.pad(batch.head_BC + np.int32(first_head), ((0, 0), (0, missing)))
        return batch._replace(task_BT=np.where(batch.segment_BT > 0, np.int32(id), 0), head_BC=head_BC, **wider)


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
    corpus: Corpus,
    source: int,
    builder: Builder,
    task: int,
    B: int,
    T: int,
    most_rows: int,
    keep: slice | np.ndarray = slice(None),
) -> Iterator[Batch]:
    """A source's held-out text read once, in order, as one task sees it: batches [B, T] of at most `most_rows` rows.

    The last is padded. Chance is the same whatever the run's seed is, and progress that of a run's end.
    """
    plan = SequentialPlan(corpus.stores[source], T)
    count = min(plan.rows_per_epoch, most_rows)
    row_B = np.arange(B)[keep]

    def build(step_G):
        row_GB = step_G[:, None] * B + row_B
        pieces = plan.pieces(row_GB.ravel())
        wanted = row_GB.ravel()[pieces.row_P] < count
        pieces = Pieces(*(array[wanted] for array in pieces))
        text = read_text(corpus, [(source, pieces)], T, np.ones(row_GB.size), VALIDATION_SEED)
        batch = builder.batch(text, np.full(row_GB.size, task))
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
