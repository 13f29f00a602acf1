"""What losses over classes share: answers by argmax, how often they are correct, and the commonest class beside them.

Axes: B batch  Q places that are looked at.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gptjax.batch import Batch
from train.losses.loss import Loss, Measure, Seen, Sums, joined, total
from train.objectives import Term

if TYPE_CHECKING:
    from data.tasks.task import Corpus, Task

COMMONEST = "always says what is commonest"


class Classified(Loss):
    """-log p of a target that is one of several classes."""

    measure = Measure(key="accuracy", title="right answers", form=".1%", higher_is_better=True)

    @abstractmethod
    def answers(self, seen: Seen, terms: Sequence[Term]) -> list[tuple[Float[Array, "B Q"], Int[Array, "B Q"]]]:
        """Of each term (the losses, the argmax) at every place: to look at, not to learn from."""

    def sums(self, seen: Seen, terms: Sequence[Term]) -> list[Sums]:
        """The weight of the correct answers beside that of all."""
        return [
            self.sums_of(seen, term, *answer) for term, answer in zip(terms, self.answers(seen, terms), strict=True)
        ]

    def sums_of(self, seen: Seen, term: Term, nll_BQ: Array, argmax_BQ: Array) -> Sums:
        label_BQ, weight_BQ = self.targets(seen.batch, term), self.weights(seen.batch, term)
        correct_BQ = jnp.where(argmax_BQ == label_BQ, weight_BQ, 0.0)
        return {"loss": total(nll_BQ, weight_BQ), "weight": jnp.sum(weight_BQ), "correct": jnp.sum(correct_BQ)}

    def score(self, sums: Mapping[str, Any]) -> float:
        return float(sums["correct"] / sums["weight"])

    def baseline(self, term: Term, batches: Sequence[Batch], task: "Task", corpus: "Corpus") -> tuple[str, float]:
        label = joined([self.targets(batch, term) for batch in batches])
        weight = joined([self.weights(batch, term) for batch in batches])
        commonest = np.bincount(label, weight).argmax()
        return COMMONEST, float(((label == commonest) * weight).sum() / weight.sum())

    def margin(self, record: Mapping[str, Any]) -> float:
        """A tie is not a win: the shares are of float32 sums, equal to half a target at best."""
        return self.ahead(record) - 0.5 / record["targets"]
