"""What all tasks share: running text as pieces of documents, chance without state, and the way back to rows.

Axes: R rows  P pieces (stretches of documents that fill the rows)  I their tokens, joined  S segments  T position
Q sequence-level targets of a row  V vocabulary.
"""

import copy
import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from data.tasks.schedule import Schedule
from data.token_store import TokenStore, scramble
from gptjax.batch import Batch, ClassHead
from gptjax.text.tokenizer import Tokenizer

FEW_ROWS = 2  # a step, below which a task may have none in the next one


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """What tasks may ask of the whole text: one split of every source."""

    sources: tuple[str, ...]
    stores: tuple[TokenStore, ...]
    classes: Mapping[str, Mapping[str, tuple[str, ...]]]  # source -> label field -> its classes, as stored by number
    tokenizer: Tokenizer
    whole: frozenset[str] = frozenset()  # sources whose documents are examples, which rows hold whole
    heads: tuple[ClassHead, ...] = ()  # the head that labelled texts were prepared for
    growth: float = 0.0  # share by which examples may become longer, for which their rows have room

    @functools.cached_property
    def ordinary_V(self) -> np.ndarray:
        """Ids of the tokens that text is made of: all but the special ones, i32."""
        special = self.tokenizer.special_ids
        return np.array([id for id in range(self.tokenizer.size) if id not in special], np.int32)

    @functools.cached_property
    def is_ordinary_V(self) -> np.ndarray:
        """Of every id, whether text is made of it; bool."""
        is_ordinary_V = np.zeros(self.tokenizer.size, bool)
        is_ordinary_V[self.ordinary_V] = True
        return is_ordinary_V


class Text(NamedTuple):
    """R rows of running text, before a task has touched it: pieces in row order, each row's from its first column."""

    corpus: Corpus
    T: int
    progress_R: np.ndarray  # f64: share of the run that lies before each row; 1 for held-out text
    row_P: np.ndarray  # i64, rising
    source_P: np.ndarray  # i64: place in corpus.sources
    document_P: np.ndarray  # i64: number in the source's store
    start_P: np.ndarray  # i64: the piece's first token, as an index into the source's tokens
    next_P: np.ndarray  # i64: the token that follows the piece in its document; -1 where the document ends
    key_P: np.ndarray  # u64: of chance; differs by seed, source, epoch, document and place in it, and by nothing else
    length_P: np.ndarray  # i64: tokens
    token_I: np.ndarray  # i32
    mark_I: np.ndarray  # u8: WORD_START, SENTENCE_END of data.preparation.token_flags
    task: int = 0  # what stands in `task_BT` for the task that reads this
    heads: tuple[int, ...] = ()  # numbers of that task's heads among all of the run; () = from 0
    Q: int = 0  # places for sequence-level targets that a row has at least, whatever its task

    @property
    def R(self) -> int:
        return len(self.progress_R)

    def of(self, rows: np.ndarray) -> "Text":
        """The text of some of the rows, numbered anew in this order; `rows` rise."""
        wanted_P = np.isin(self.row_P, rows)
        wanted_I = np.repeat(wanted_P, self.length_P)
        kept = {name: array[wanted_P] for name, array in self._asdict().items() if name.endswith("_P")}
        kept |= {name: array[wanted_I] for name, array in self._asdict().items() if name.endswith("_I")}
        kept["row_P"] = np.searchsorted(rows, kept["row_P"])
        return self._replace(progress_R=self.progress_R[rows], **kept)

    @property
    def piece_I(self) -> np.ndarray:
        """The piece of every token."""
        return np.repeat(np.arange(len(self.length_P)), self.length_P)

    @property
    def first_P(self) -> np.ndarray:
        """Where each piece begins among the tokens."""
        return np.cumsum(self.length_P) - self.length_P

    @property
    def position_I(self) -> np.ndarray:
        """Place of every token in its piece, from 0."""
        return np.arange(len(self.token_I)) - np.repeat(self.first_P, self.length_P)

    def chance(self, salt: int) -> np.ndarray:
        """A number in [0, 1) for every token, f64 [I]: another one for each salt."""
        return uniform(np.repeat(self.key_P, self.length_P) + self.position_I.astype(np.uint64), salt)

    def chance_of_pieces(self, salt: int) -> np.ndarray:
        """A number in [0, 1) for every piece, f64 [P]."""
        return uniform(self.key_P, salt)


def uniform(key: np.ndarray, salt: int) -> np.ndarray:
    """Numbers in [0, 1) that depend on nothing but the keys and the salt, f64 with 53 random bits."""
    return (scramble(key, salt) >> np.uint64(11)) * 2.0**-53


def ranks(group_M: np.ndarray, lot_M: np.ndarray) -> np.ndarray:
    """Each member's place in its group when the group is ordered by lot, equal ones as they stand; i64 [M].

    `group_M` rises.
    """
    rank_M = np.empty(len(group_M), np.int64)
    rank_M[np.lexsort((lot_M, group_M))] = np.arange(len(group_M)) - np.searchsorted(group_M, group_M, side="left")
    return rank_M


class Targets(NamedTuple):
    """Sequence-level targets. L of them."""

    segment_L: np.ndarray  # i64: of the segments that were packed, rising
    head_L: np.ndarray  # i64: place of the head in the task's own `heads`
    label_L: np.ndarray  # i64: class
    place_L: np.ndarray | None = None  # i64: where in the segment they are read; None = from its last token
    value_L: np.ndarray | None = None  # f64: what a loss over numbers is to find; None = 0
    weight_L: np.ndarray | None = None  # f64: how much each counts; None = 1


class TaskKind(type):
    """Lets a task be made with its schedule beside its settings, as in MaskedLM(rows=0.1, rate=0.2)."""

    def __call__(cls, **given: Any) -> Any:
        own = {name: value for name, value in given.items() if name not in SCHEDULED}
        task = super().__call__(**own)
        if scheduled := {name: given[name] for name in given.keys() - own.keys()}:
            try:
                schedule = dataclasses.replace(cls.schedule, **scheduled)  # pyright: ignore[reportAttributeAccessIssue]
            except ValueError as error:
                raise ValueError(f"{cls.__name__}.{error}") from None
            task = task.on(schedule)
            object.__setattr__(task, "given", scheduled)
        return task


SCHEDULED = tuple(field.name for field in dataclasses.fields(Schedule))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(metaclass=TaskKind):
    """An objective: how running text becomes rows that teach something, and how much of the training it is.

    A task is one subclass in one file, and one line in the table of train/objectives.py. Its fields are settings of its
    own; its schedule is the objectives' affair, which bind it to the task.
    """

    schedule: ClassVar[Schedule] = Schedule()  # how much of the run it is; of an instance, its own
    given: ClassVar[Mapping[str, Any]] = {}  # what an instance was made with for its schedule
    auxiliary: ClassVar[bool] = False  # divided by the targets to be expected where it has few rows a step
    loss: ClassVar[str] = "tokens"  # kind of loss, by its name in train/losses/table.py
    token_head: ClassVar[str | None] = None  # head that predicts its token targets; None = the one of the tokens
    causal: ClassVar[bool] = False  # no token of its rows, whatever the text, is visible to earlier ones
    compares: ClassVar[bool] = False  # its heads compare the two parts of a segment, cut where the target is read
    # what its model can be used for
    models_text: ClassVar[bool] = False  # its loss is -log p of what is learnt: measured by source, in bits per byte
    generates: ClassVar[bool] = False  # a beginning is continued
    masks: ClassVar[bool] = False  # a masked token is told from all others

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "guess" in cls.__dict__:
            raise TypeError(f"{cls.__name__}.guess: is called `baseline` now; rename it, its meaning is the same")

    def __post_init__(self):
        """Raises ValueError for settings that cannot be."""

    def on(self, schedule: Schedule) -> Self:
        """The same task on another schedule."""
        task = copy.copy(self)
        object.__setattr__(task, "schedule", schedule)
        object.__setattr__(task, "given", {})
        return task

    @property
    def rows(self) -> float:
        return self.schedule.rows

    @property
    def sources(self) -> tuple[str, ...]:
        return self.schedule.sources

    @property
    def ever(self) -> bool:
        """Whether it has rows at any time."""
        return self.schedule.most > 0

    @property
    def weights(self) -> list[float]:
        return self.schedule.weights

    @property
    def shares(self) -> list[float]:
        return self.schedule.shares

    def rows_at(self, share: float) -> float:
        return self.schedule.rows_at(share)

    def weight_at(self, share: float) -> float:
        return self.schedule.weight_at(share)

    def rare(self, rows_a_step: int) -> bool:
        """Whether its loss is divided by the targets that are to be expected in a step of so many rows.

        Else by those that are there: right where every step has some, but of few rows a step each would pull as hard
        as many.
        """
        said = self.schedule.rare
        return self.auxiliary and rows_a_step * self.schedule.most < FEW_ROWS if said is None else said

    def heads(self, corpus: Corpus) -> dict[str, tuple[str, ...]]:
        """The output heads that it trains beside that of the tokens: name -> classes.

        Raises ValueError where the text lacks what they need.
        """
        return {}

    def made_heads(self, corpus: Corpus) -> dict[str, ClassHead]:
        """The same heads, whole."""
        return {
            name: ClassHead(name=name, classes=classes, pair=self.compares, token=name == self.token_head)
            for name, classes in self.heads(corpus).items()
        }

    def loss_of(self, head: ClassHead) -> str:
        """The kind of loss that one of its heads learns by."""
        return self.loss

    def targets_a_row(self, corpus: Corpus, T: int) -> int:
        """Most sequence-level targets of one row."""
        return 0

    def remarks(self, corpus: Corpus) -> list[str]:
        """What a person should know of the training text before this task is learnt from it."""
        return []

    def only_reads(self, text: Text) -> np.ndarray | None:
        """The tokens of examples that it reads and does not learn, bool [I]: augmentation may change these, as far as
        they are no special tokens. None = nothing is ever changed."""
        return None

    def build(self, text: Text) -> Batch:
        """Its rows of this text. `packed` fills in what the run calls it: `text.task`, `text.heads`, `text.Q`."""
        raise NotImplementedError

    def baseline(self, batch: Batch, corpus: Corpus) -> tuple[str, np.ndarray] | None:
        """(what a cheap baseline does, how often it is correct at each position, f64 [B, T]); of token targets only.

        None = it always says the commonest target.
        """
        return None


def phases(tasks: Iterable[Task]) -> list[float]:
    """Shares of the run from which the tasks' rows are others, from 0 on."""
    return sorted({share for task in tasks for share in task.shares})


def fitting(row_S: np.ndarray, length_S: np.ndarray, T: int) -> np.ndarray:
    """Which segments are kept so that those of a row, in order, fill at most T places; bool. `row_S` rises."""
    end_S = np.cumsum(length_S)
    first_S = np.searchsorted(row_S, row_S, side="left")
    return end_S - (end_S - length_S)[first_S] <= T


def packed(
    text: Text, row_S: np.ndarray, length_S: np.ndarray, tokens_I: np.ndarray, *,
    targets_I: np.ndarray | None = None, weights_I: np.ndarray | None = None, visible_I: np.ndarray | None = None,
    targets: Targets | None = None, Q: int = 0,
) -> Batch:  # fmt: skip
    """Rows of packed segments, one after another from each row's first place; what they leave is padding.

    `row_S` rises, and a row's segments fit in T. The arrays over I hold the tokens of all segments, joined; left out
    are: no targets, weight 0, visible to later tokens only. Positions count from 0 in every segment. `Q`: most targets
    of a row of this task. Heads in `targets` count from 0 among the task's own.
    """
    R, T = text.R, text.T
    end_S = np.cumsum(length_S)
    begin_S = end_S - length_S
    first_S = np.searchsorted(row_S, row_S, side="left")  # first segment of the same row
    column_S = begin_S - begin_S[first_S]
    position = np.arange(len(tokens_I)) - np.repeat(begin_S, length_S)
    place = np.repeat(row_S * T + column_S, length_S) + position

    def laid_out(values, dtype: type = np.int32):
        array_RT = np.zeros(R * T, dtype)
        if values is not None:
            array_RT[place] = values
        return array_RT.reshape(R, T)

    targets = targets or Targets(*(np.zeros(0, np.int64),) * 3)
    row_L = row_S[targets.segment_L]
    place_L = length_S[targets.segment_L] - 1 if targets.place_L is None else targets.place_L
    slot_L = np.arange(len(row_L)) - np.searchsorted(row_L, row_L, side="left")

    def by_target(values, dtype: type = np.int32):
        array_RQ = np.zeros((R, max(Q, text.Q)), dtype)
        if values is not None:
            array_RQ[row_L, slot_L] = values
        return array_RQ

    head_RQ = by_target(targets.head_L)
    if text.heads:
        head_RQ[:, :Q] = np.array(text.heads)[head_RQ[:, :Q]]  # a place of this task without a target has its first
    segment_RT = laid_out(np.repeat(np.arange(len(row_S)) - first_S + 1, length_S))
    return Batch(
        tokens_BT=laid_out(tokens_I),
        targets_BT=laid_out(targets_I),
        weights_BT=laid_out(weights_I, np.float32),
        task_BT=np.where(segment_RT > 0, np.int32(text.task), np.int32(0)),
        segment_BT=segment_RT,
        position_BT=laid_out(position),
        visible_BT=laid_out(visible_I, bool),
        label_BQ=by_target(targets.label_L),
        value_BQ=by_target(targets.value_L, np.float32),
        at_BQ=by_target(column_S[targets.segment_L] + place_L),
        head_BQ=head_RQ,
        label_weight_BQ=by_target(1 if targets.weight_L is None else targets.weight_L, np.float32),
    )
