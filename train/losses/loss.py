"""What every kind of loss is: a loss for each target, a score beside a cheap baseline, and how both are shown.

To add one: a subclass of `Loss` in a file of its own, and a line in train/losses/table.py.
Axes: B batch  T position  D residual  Q places that are looked at  C classes of a head.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gptjax.batch import Batch
from gptjax.config import ModelConfig
from train.objectives import Term

if TYPE_CHECKING:
    from data.tasks.task import Corpus, Task

Sums = dict[str, Array]  # over a batch's targets of one term, float32; "loss" and "weight" are always there


class Seen(NamedTuple):
    """What the network made of a batch: all that a loss reads."""

    params: Any
    config: ModelConfig
    batch: Batch
    hidden_BTD: Float[Array, "B T D"]
    chunks: int  # pieces of T whose logits over the vocabulary may exist one at a time
    dropout_key: Array | None = None  # None = nothing is dropped: it is looked at, not learnt from


@dataclasses.dataclass(frozen=True)
class Measure:
    """The number that tells people how well a task is learnt."""

    key: str  # its name in records; that of its baseline is `baseline_<key>`
    title: str  # over its column, and beside its axis
    form: str  # as format() takes it
    higher_is_better: bool


class Matrix(NamedTuple):
    """A picture: how many targets of each class (a row) were taken for which (a column)."""

    title: str
    count_CC: np.ndarray
    classes: list[str]


class Loss(ABC):
    """A kind of loss. Its targets are those of segments, unless it says otherwise. Holds no state."""

    unit: ClassVar[str] = "nats per target"  # of the mean loss
    measure: ClassVar[Measure]

    def weights(self, batch: Batch, term: Term) -> Float[Array, "*axes"]:
        """The weight of every target of a term, 0 for those of others; with any leading axes."""
        return jnp.where(batch.head_BQ == term.head, batch.label_weight_BQ, 0.0)

    @abstractmethod
    def targets(self, batch: Batch, term: Term) -> Array:
        """What is to be found, at the places of `weights`."""

    @abstractmethod
    def losses(self, seen: Seen, terms: Sequence[Term]) -> list[Float[Array, "*axes"]]:
        """Of each term of this kind the loss at every place of `weights`, float32: to be learnt from."""

    @abstractmethod
    def sums(self, seen: Seen, terms: Sequence[Term]) -> list[Sums]:
        """Of each term of this kind what its scores are made of. Sums alone, which batches and sources add up."""

    @abstractmethod
    def score(self, sums: Mapping[str, Any]) -> float:
        """The measure, of sums over any number of batches."""

    @abstractmethod
    def baseline(self, term: Term, batches: Sequence[Batch], task: "Task", corpus: "Corpus") -> tuple[str, float]:
        """(what a cheap baseline does, the measure that it reaches on the targets of these NumPy batches)."""

    def details(self, term: Term, sums: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
        """What else a record keeps, as JSON."""
        return {}

    # Of a record of metrics.jsonl, for the report

    def wrote(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is of this kind of loss; of the table's lines the first that says so counts."""
        return self.measure.key in record

    def margin(self, record: Mapping[str, Any]) -> float:
        """As `ahead`, and 0 or less where that is no more than rounding."""
        return self.ahead(record)

    def ahead(self, record: Mapping[str, Any]) -> float:
        """How much better the model is than its baseline."""
        score, baseline = record[self.measure.key], record[f"baseline_{self.measure.key}"]
        ahead = math.nan if None in (score, baseline) else score - baseline  # records have null for what is no number
        return ahead if self.measure.higher_is_better else -ahead

    def pictures(self, term: str, record: Mapping[str, Any]) -> list[Matrix]:
        """What is drawn of a term's last record."""
        return []


def total(loss: Array, weight: Array) -> Float[Array, ""]:
    """The weighted sum of a loss, never divided here. A place without weight may hold anything, NaN too."""
    return jnp.sum(jnp.where(weight > 0, loss * weight, 0.0))


def joined(arrays: Sequence[Any]) -> np.ndarray:
    """The values of several batches, one after another."""
    return np.concatenate([np.ravel(array) for array in arrays])
