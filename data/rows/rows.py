"""Rows by number: which source and which task row r has, and the fixed-shape arrays that the task makes of its text.

Axes: R rows  P pieces  I tokens  F phases of a run  S sources  O tasks (objectives).
"""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.description import HEADS, read_prepared
from data.rows.mixture import RATE_UNIT, lay_out, mixture_rates
from data.rows.rowplan import Pieces, RowPlan, SequentialPlan, assign, pattern
from data.rows.wholeplan import WholePlan
from data.tasks.augment import Augment, augmented, changed
from data.tasks.task import Corpus, Task, Text, phases
from data.token_store import TokenStore, runs, scramble
from gptjax.batch import Batch, ClassHead
from gptjax.spelling import did_you_mean
from gptjax.text.tokenizer import Tokenizer

VALIDATION_SEED = 2**32  # of chance in held-out text: no run has it
TURNS_FROM = 4 * RATE_UNIT  # rows among which each task's next ones are looked for
OFTEN = 4  # times that a source may be read as if it were new text: Muennighoff et al. 2023, arXiv:2305.16264
PROBED = 64  # rows of each source from which a task's targets are counted


class Rows:
    """Training rows of a prepared mixture, by number: row r is the same from any start, on any host, in any batch.

    `horizon` is how many tokens the whole run reads; what changes with the run's progress depends on it. `tasks` are
    those of the run, by name; a task's id in a batch is its place among them, from 1. `augment`: how the texts of
    examples are changed each time they are read.

    Raises ValueError where a source is too short for a row, or the tasks and the text do not fit.
    """

    def __init__(
        self, prepared: Path, T: int, seed: int, horizon: int | None, tasks: Mapping[str, Task],
        augment: Augment | None = None,
    ):  # fmt: skip
        description = read_prepared(prepared)
        growth = augment.growth if augment is not None else 0.0
        self.corpus = dataclasses.replace(open_corpus(prepared, "train"), growth=growth)
        self._augment = augment
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
                if name in self.corpus.whole:
                    plan = WholePlan(store, T, (seed, place), growth)
                else:
                    plan = RowPlan(store, T, (seed, place))
                self.plans.append(plan)
            except ValueError as error:
                raise ValueError(f"source {name!r}: {error}") from error
        self.builder = Builder(self.corpus, tasks, T)
        self.targets_found = self._targets_found()  # of every task: targets a row by source, of tokens and of each head
        self.reads = {  # of every task with rows, the sources in which it finds something
            name: tuple(source for source, counts in zip(self.sources, found, strict=True) if counts.any())
            for name, found in self.targets_found.items()
        }
        self.remarks = self._read_often(sizes)  # what a person should know before it trains
        for name, reads in self.reads.items():  # a task that reads nothing has no rows
            self.remarks += [f"objectives.{name}.{remark}" for remark in self.builder.tasks[name].remarks(self.corpus)]
            if lacking := set(self.builder.tasks[name].sources or self.sources) - set(reads):
                lacks = ", ".join(sorted(lacking))
                self.remarks.append(f"objectives.{name}: finds nothing in {lacks}; other tasks have those rows")
        self.timetable = Timetable(self.builder.tasks, self.sources, self.reads)
        if augment is not None and augment.of_text:
            self.remarks += self._shares_changed(augment)

    @property
    def trained(self) -> dict[str, Task]:
        """Name -> task, of those that have rows at some time and find something in them."""
        return {name: self.builder.tasks[name] for name, reads in self.reads.items() if reads}

    def batch(self, row_R: np.ndarray) -> Batch:
        """The rows with these numbers, in this order."""
        return self.builder.batch(self.text(row_R), self.tasks_of(row_R), self._augment)

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

    def taking_turns(self, first_row: int, count: int) -> np.ndarray:
        """Numbers of `count` rows, of those from `first_row` on, in which the tasks of that time take turns."""
        row_R = np.arange(first_row, first_row + TURNS_FROM)
        task_R = self.tasks_of(row_R)
        of_task = [row_R[task_R == task] for task in np.unique(task_R)]
        return np.stack([np.resize(rows, count) for rows in of_task], axis=1).ravel()[:count]

    def _targets_found(self) -> dict[str, np.ndarray]:
        """Of every task with rows: targets a row, f64 [S, 1 + its heads]: those of tokens, then those of each head.

        Counted in the first rows of each source. Raises ValueError where a task finds nothing in a source that it
        names, or is the only one and finds nothing.
        """
        found = {}
        for name, heads in self.builder.heads_of.items():
            task, o = self.builder.tasks[name], self.builder.id_of(name) - 1
            found[name] = np.zeros((len(self.sources), 1 + len(heads)))
            for place, source in enumerate(self.sources):
                if task.sources and source not in task.sources:
                    continue
                pieces = self.plans[place].pieces(np.arange(PROBED))
                text = read_text(self.corpus, [(place, pieces)], self.T, np.zeros(PROBED), self._seed)
                batch = self.builder.batch(text, np.full(PROBED, o))
                of_heads = [batch.label_weight_BQ[batch.head_BQ == head].sum() for head in heads]
                found[name][place] = np.array([batch.weights_BT.sum(), *of_heads]) / PROBED
            named = [source for source in task.sources if not found[name][self.sources.index(source)].any()]
            if named or (task.rows == 1 and not found[name].any()):
                raise ValueError(
                    f"objectives.{name}: finds nothing to learn in {PROBED} rows of {', '.join(named or self.sources)} "
                    f"(model.T={self.T}); name other sources in objectives.{name}.sources, or give it no rows"
                )
        return found

    def _shares_changed(self, augment: Augment) -> list[str]:
        """Says how much augmentation changes of the text that each task reads, counted in the run's first rows.

        Raises ValueError where no task has any such text.
        """
        row_R = np.arange(PROBED)
        text, task_R, said = self.text(row_R), self.tasks_of(row_R), []
        for o, (name, task) in enumerate(self.builder.tasks.items()):
            own = text.of(np.flatnonzero(task_R == o))
            if (may_I := task.only_reads(own)) is None or not may_I.any():
                continue
            found, all_read = changed(own, may_I, augment), int(may_I.sum())
            each = ", ".join(f"{change} {count / all_read:.1%}" for change, count in found.counts.items())
            said.append(
                f"augment: of the {all_read:,} tokens that {name} only reads in the first {PROBED} rows, "
                f"{sum(found.counts.values()) / all_read:.1%} are changed ({each}); none that is learned"
            )
        if not said:
            raise ValueError(
                "augment: no task has text here that is only read, so nothing would change; leave augment.* at 0"
            )
        return said

    def _read_often(self, sizes: Mapping[str, int]) -> list[str]:
        """Says which sources the run reads so often that they teach less each time."""
        times = {name: (self.horizon or 0) * rate / RATE_UNIT / sizes[name] for name, rate in self.rates.items()}
        often = [
            f"{name} ({sizes[name]:,} tokens) {count:,.1f} times"
            for name, count in times.items()
            if round(count, 1) > OFTEN and not (self.corpus.heads and name in self.corpus.whole)
        ]
        if not often:
            return []
        return [
            f"read more than {OFTEN} times, beyond which the same text teaches less and less (Muennighoff et al. 2023, "
            f"arXiv:2305.16264): {'; '.join(often)}; add text, lower such a rate, or train for fewer steps"
        ]

    def source_of(self, row: int) -> str:
        """Name of the source that fills a row."""
        source_R, _ = assign(np.array([row]), self._rates)
        return self.sources[source_R[0]]


def epochs(prepared: Path, tokens: int) -> float:
    """How often so many tokens are the whole training text."""
    sources = read_prepared(prepared)["sources"]
    return tokens / sum(
        int(np.load(prepared / source["folder"] / "train" / "offsets.npy", mmap_mode="r")[-1])
        for source in sources.values()
    )


def open_corpus(prepared: Path, split: str) -> Corpus:
    """One split of a prepared folder."""
    sources = read_prepared(prepared)["sources"]
    stores = tuple(TokenStore(prepared / source["folder"] / split) for source in sources.values())
    classes = {
        name: {field: tuple(names) for field, names in source["labels"].items()} for name, source in sources.items()
    }
    whole = frozenset(name for name, source in sources.items() if source.get("whole"))
    heads = [] if not (prepared / HEADS).exists() else json.loads((prepared / HEADS).read_text(encoding="utf-8"))
    made = tuple(ClassHead.of(fields.pop("name"), fields) for fields in heads)
    return Corpus(tuple(sources), stores, classes, Tokenizer.load(prepared / "tokenizer.json"), whole, made)


def read_text(corpus: Corpus, found: Sequence[tuple[int, Pieces]], T: int, progress_R: np.ndarray, seed: int) -> Text:
    """The text of pieces of several sources, in row order."""
    parts: list[dict[str, np.ndarray]] = []
    for source, pieces in found:
        store, start_P = corpus.stores[source], pieces.start_P
        stop_P = start_P + pieces.length_P
        goes_on_P = stop_P < pieces.document_end_P
        place_P = start_P - store.offset_D[pieces.document_P]
        # an id of the document that its number does not decide, and of the epoch
        key_P = scramble(store.hash_D[pieces.document_P], seed, source) + scramble(pieces.epoch_P, seed, source, 1)
        token = runs(start_P, pieces.length_P)
        parts.append(
            {
                "row_P": pieces.row_P,
                "source_P": np.full(len(start_P), source),
                "document_P": pieces.document_P,
                "start_P": start_P,
                "next_P": np.where(goes_on_P, store.tokens[np.where(goes_on_P, stop_P, 0)].astype(np.int64), -1),
                "key_P": scramble(key_P) + place_P.astype(np.uint64),
                "length_P": pieces.length_P,
                "token_I": store.tokens[token].astype(np.int32),
                "mark_I": store.marks[token],
            }
        )
    text = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(text["row_P"], kind="stable")
    length_P = text["length_P"]
    moved = runs((np.cumsum(length_P) - length_P)[order], length_P[order])
    in_order: dict[str, Any] = {name: array[order if name.endswith("_P") else moved] for name, array in text.items()}
    return Text(corpus=corpus, T=T, progress_R=progress_R, **in_order)


class Timetable:
    """Which task makes which row: dealt out within each source by a counter of its own, and anew at each share of the
    run at which a task's rows change. So every stretch of every source has the promised shares of all tasks.
    """

    def __init__(self, tasks: Mapping[str, Task], sources: Sequence[str], reads: Mapping[str, Collection[str]]):
        self.starts = np.array(phases(tasks.values()))  # shares of the run
        shares_FSO = np.array([[_shares(tasks, reads, source, start) for source in sources] for start in self.starts])
        self._rates = [[_rates(list(tasks), shares_O) for shares_O in shares_SO] for shares_SO in shares_FSO]
        self.shares_FSO = np.array(self._rates) / RATE_UNIT  # of phases, sources, tasks: the share of the source's rows

    def tasks(self, progress_R: np.ndarray, source_R: np.ndarray, within_R: np.ndarray) -> np.ndarray:
        """The place of each row's task, from its progress, its source and its number within that source."""
        phase_R = np.searchsorted(self.starts, progress_R, side="right") - 1
        task_R = np.zeros(len(source_R), np.int64)
        for phase, source in {*zip(phase_R.tolist(), source_R.tolist(), strict=True)}:
            here = (phase_R == phase) & (source_R == source)
            task_slot, _ = pattern(self._rates[phase][source])
            task_R[here] = task_slot[within_R[here] % RATE_UNIT]
        return task_R


def _shares(tasks: Mapping[str, Task], reads: Mapping[str, Collection[str]], source: str, start: float) -> list[float]:
    """The share of a source's rows that each task has from a share of the run on."""
    shares = [task.rows_at(start) * (source in reads.get(name, ())) for name, task in tasks.items()]
    if sum(shares) == 0:
        raise ValueError(f"objectives: no task reads source {source!r}; drop it, or name it in a task's sources")
    return [share / sum(shares) for share in shares]


def _rates(names: Sequence[str], shares_O: np.ndarray) -> tuple[int, ...]:
    """Rows of each task out of every 1024."""
    laid = lay_out({name: share for name, share in zip(names, shares_O.tolist(), strict=True) if share > 0})
    return tuple(laid.get(name, 0) for name in names)


class Builder:
    """Text to batches: each row by its task, with heads and targets where all tasks have them."""

    def __init__(self, corpus: Corpus, tasks: Mapping[str, Task], T: int):
        self.tasks = dict(tasks)  # all of the table, so that a task's id is the same in every run
        self.heads: dict[str, ClassHead] = {}  # by name
        self.heads_of: dict[str, list[int]] = {}  # of every task with rows at any time: numbers of its heads
        self.Q = 0  # most sequence-level targets of a row
        for name, task in tasks.items():
            if not task.ever:
                continue
            for source in task.sources:
                if source not in corpus.sources:
                    raise ValueError(f"objectives.{name}.sources: {source!r}{did_you_mean(source, corpus.sources)}")
            try:
                own = task.made_heads(corpus)
                self.Q = max(self.Q, task.targets_a_row(corpus, T))
            except ValueError as error:
                raise ValueError(f"objectives.{name}: {error}") from error
            if taken := own.keys() & self.heads.keys():
                raise ValueError(
                    f"objectives.{name}: another task has a head called {sorted(taken)}; leave that label out"
                )
            self.heads_of[name] = [len(self.heads) + number for number in range(len(own))]
            self.heads |= own

    def id_of(self, name: str) -> int:
        """What stands for a task in `task_BT`; 0 is padding."""
        return 1 + list(self.tasks).index(name)

    def batch(self, text: Text, task_R: np.ndarray, augment: Augment | None = None) -> Batch:
        """The rows of a text, each made by the task at its place in `tasks`; `augment` is of training text alone."""
        batches, places = [], []
        for o, (name, task) in enumerate(self.tasks.items()):
            place = np.flatnonzero(task_R == o)
            if len(place):
                known_as = {"task": o + 1, "heads": tuple(self.heads_of[name]), "Q": self.Q}
                own = augmented(text.of(place)._replace(**known_as), task, augment)
                batches.append(task.build(own))
                places.append(place)
        back = np.argsort(np.concatenate(places))
        return Batch(*(np.concatenate(arrays)[back] for arrays in zip(*batches, strict=True)))


class HeldOutRows:
    """A source's held-out text, read once, in order, as one task sees it; chance and progress are the same in any run.

    `count` rows, at most `most_rows`, spread evenly over the text; numbers from `count` on are padding.
    """

    def __init__(self, corpus: Corpus, source: int, builder: Builder, task: str, T: int, most_rows: int):
        self._corpus, self._source, self._builder, self.T = corpus, source, builder, T
        self._task = builder.id_of(task) - 1
        whole, store = corpus.sources[source] in corpus.whole, corpus.stores[source]
        self._plan = WholePlan(store, T, None) if whole else SequentialPlan(store, T)
        self.count = min(self._plan.rows_per_epoch, most_rows)

    def batch(self, row_R: np.ndarray) -> Batch:
        pieces = self._plan.pieces(row_R * self._plan.rows_per_epoch // self.count)
        text = read_text(self._corpus, [(self._source, pieces)], self.T, np.ones(len(row_R)), VALIDATION_SEED)
        return self._builder.batch(text, np.full(len(row_R), self._task))
