"""What all tasks share: running text as pieces of documents, chance without state, and the way back to rows.

Axes: R rows  P pieces (stretches of documents that fill the rows)  N their tokens, joined  S segments  T position
C sequence-level targets of a row  V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from data.token_store import TokenStore, scramble
from gptjax.batch import Batch
from gptjax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """What tasks may ask of the whole text: one split of every source."""

    sources: tuple[str, ...]
    stores: tuple[TokenStore, ...]
    classes: Mapping[str, Mapping[str, tuple[str, ...]]]  # source -> label field -> its classes, as stored by number
    tokenizer: Tokenizer

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
    token_N: np.ndarray  # i32
    mark_N: np.ndarray  # u8: WORD_START, SENTENCE_END of data.preparation.marks
    task: int = 0  # what stands in `task_BT` for the task that reads this
    heads: tuple[int, ...] = ()  # numbers of that task's heads among all of the run; () = from 0
    C: int = 0  # places for sequence-level targets that a row has at least, whatever its task

    @property
    def R(self) -> int:
        return len(self.progress_R)

    def of(self, rows: np.ndarray) -> "Text":
        """The text of some of the rows, numbered anew in this order; `rows` rise."""
        wanted_P = np.isin(self.row_P, rows)
        wanted_N = np.repeat(wanted_P, self.length_P)
        kept = {name: array[wanted_P] for name, array in self._asdict().items() if name.endswith("_P")}
        kept |= {name: array[wanted_N] for name, array in self._asdict().items() if name.endswith("_N")}
        kept["row_P"] = np.searchsorted(rows, kept["row_P"])
        return self._replace(progress_R=self.progress_R[rows], **kept)

    @property
    def piece_N(self) -> np.ndarray:
        """The piece of every token."""
        return np.repeat(np.arange(len(self.length_P)), self.length_P)

    @property
    def first_P(self) -> np.ndarray:
        """Where each piece begins among the tokens."""
        return np.cumsum(self.length_P) - self.length_P

    @property
    def position_N(self) -> np.ndarray:
        """Place of every token in its piece, from 0."""
        return np.arange(len(self.token_N)) - np.repeat(self.first_P, self.length_P)

    def chance(self, salt: int) -> np.ndarray:
        """A number in [0, 1) for every token, f64 [N]: another one for each salt."""
        return uniform(np.repeat(self.key_P, self.length_P) + self.position_N.astype(np.uint64), salt)

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """An objective: how running text becomes rows that teach something, and how much of the training it is.

    A task is one subclass in one file, and one line in the table of train/objectives.py.
    """

    rows: float = 0.0  # share of the rows of the sources that it reads; elsewhere the others share its rows
    weight: float | None = None  # lambda: its share of the gradient; None = as its rows
    later: tuple[tuple[float, float, float], ...] = ()  # (share of the run, rows from there on, weight reached there)
    rare: bool = False  # divide by the expected, not the found number of targets: for less than a few rows a step
    sources: tuple[str, ...] = ()  # that it reads; () = all in which it finds something

    loss: ClassVar[str] = "tokens"  # kind of loss, by its name in train/losses/table.py
    token_head: ClassVar[str | None] = None  # head that predicts its token targets; None = the one of the tokens
    compares: ClassVar[bool] = False  # its heads compare the two parts of a segment, cut where the target is read
    # what its model can be used for
    models_text: ClassVar[bool] = False  # its loss is -log p of the whole text: measured by source, in bits per byte
    generates: ClassVar[bool] = False  # a beginning is continued
    masks: ClassVar[bool] = False  # a masked token is told from all others

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "guess" in cls.__dict__:
            raise TypeError(f"{cls.__name__}.guess: is called `baseline` now; rename it, its meaning is the same")

    def __post_init__(self):
        """Raises ValueError for settings that cannot be."""
        name = type(self).__name__
        shares = [share for share, _, _ in self.later]
        if any(not 0 < share <= 1 for share in shares) or sorted(set(shares)) != shares:
            raise ValueError(f"{name}.later={self.later}: the shares of the run must rise and lie above 0 and up to 1")
        for field, values in (("rows", [self.rows, *(rows for _, rows, _ in self.later)]), ("weight", self.weights)):
            if any(not 0 <= value < float("inf") for value in values):
                raise ValueError(f"{name}.{field}: {values} must be 0 or more")

    @property
    def ever(self) -> bool:
        """Whether it has rows at any time."""
        return self.rows > 0 or any(rows > 0 for _, rows, _ in self.later)

    @property
    def weights(self) -> list[float]:
        """Lambda at the start of the run and at the shares of `later`; between them it changes evenly."""
        return [self.rows if self.weight is None else self.weight, *(weight for _, _, weight in self.later)]

    @property
    def shares(self) -> list[float]:
        """The shares of the run to which `weights` belong."""
        return [0.0, *(share for share, _, _ in self.later)]

    def rows_at(self, share: float) -> float:
        """Its share of the rows at a share of the run: it changes at once."""
        return [self.rows, *(rows for start, rows, _ in self.later if start <= share)][-1]

    def weight_at(self, share: float) -> float:
        """Its weight at a share of the run: it changes evenly."""
        return float(np.interp(share, self.shares, self.weights))

    def heads(self, corpus: Corpus) -> dict[str, tuple[str, ...]]:
        """The output heads that it trains beside that of the tokens: name -> classes.

        Raises ValueError where the text lacks what they need.
        """
        return {}

    def targets_a_row(self, corpus: Corpus, T: int) -> int:
        """Most sequence-level targets of one row."""
        return 0

    def remarks(self, corpus: Corpus) -> list[str]:
        """What a person should know of the training text before this task is learnt from it."""
        return []

    def build(self, text: Text) -> Batch:
        """Its rows of this text. `packed` fills in what the run calls it: `text.task`, `text.heads`, `text.C`."""
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
    text: Text, row_S: np.ndarray, length_S: np.ndarray, tokens_N: np.ndarray, *,
    targets_N: np.ndarray | None = None, weights_N: np.ndarray | None = None, visible_N: np.ndarray | None = None,
    position_N: np.ndarray | None = None, targets: Targets | None = None, C: int = 0,
) -> Batch:  # fmt: skip
    """Rows of packed segments, one after another from each row's first place; what they leave is padding.

    `row_S` rises, and a row's segments fit in T. The arrays over N hold the tokens of all segments, joined; left out
    are: no targets, weight 0, visible to later tokens only, positions from 0 in every segment. `C`: most targets of a
    row of this task. Heads in `targets` count from 0 among the task's own.
    """
    R, T = text.R, text.T
    end_S = np.cumsum(length_S)
    begin_S = end_S - length_S
    first_S = np.searchsorted(row_S, row_S, side="left")  # first segment of the same row
    column_S = begin_S - begin_S[first_S]
    position = np.arange(len(tokens_N)) - np.repeat(begin_S, length_S)
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
        array_RC = np.zeros((R, max(C, text.C)), dtype)
        if values is not None:
            array_RC[row_L, slot_L] = values
        return array_RC

    head_RC = by_target(targets.head_L)
    if text.heads:
        head_RC[:, :C] = np.array(text.heads)[head_RC[:, :C]]  # a place of this task without a target has its first
    segment_RT = laid_out(np.repeat(np.arange(len(row_S)) - first_S + 1, length_S))
    return Batch(
        tokens_BT=laid_out(tokens_N),
        targets_BT=laid_out(targets_N),
        weights_BT=laid_out(weights_N, np.float32),
        task_BT=np.where(segment_RT > 0, np.int32(text.task), np.int32(0)),
        segment_BT=segment_RT,
        position_BT=laid_out(position if position_N is None else position_N),
        visible_BT=laid_out(visible_N, bool),
        label_BC=by_target(targets.label_L),
        value_BC=by_target(targets.value_L, np.float32),
        at_BC=by_target(column_S[targets.segment_L] + place_L),
        head_BC=head_RC,
        label_weight_BC=by_target(1, np.float32),
    )
