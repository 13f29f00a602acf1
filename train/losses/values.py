"""The loss of segments that have a number: the squared error of a head with one output, on standardised numbers.

Axes: B batch  Q places that are looked at.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gptjax.batch import Batch
from gptjax.config import ModelConfig
from train.losses.head_reading import head_number, head_output
from train.losses.loss import Loss, Measure, Seen, Sums, joined, total
from train.objectives import Term

if TYPE_CHECKING:
    from data.tasks.task import Corpus, Task


class Values(Loss):
    """How far a number is from the true one. What is learnt from is standardised; figures are in the user's units."""

    unit = "squared error of standardised numbers"
    measure = Measure(key="mse", title="mean squared error", form=".4g", higher_is_better=False)

    def targets(self, batch: Batch, term: Term) -> Array:
        return batch.value_BQ

    def losses(self, seen: Seen, terms: Sequence[Term]) -> list[Float[Array, "B Q"]]:
        return [jnp.square(head_output(seen, term)[..., 0] - seen.batch.value_BQ) for term in terms]

    def sums(self, seen: Seen, terms: Sequence[Term]) -> list[Sums]:
        return [self._sums_of(seen, term, head_output(seen, term)[..., 0]) for term in terms]

    def _sums_of(self, seen: Seen, term: Term, found_BQ: Float[Array, "B Q"]) -> Sums:
        """The squared error in the user's units, and the moments that R2 and the correlation are made of."""
        true_BQ, weight_BQ = self.targets(seen.batch, term), self.weights(seen.batch, term)
        counted_BQ = (weight_BQ > 0).astype(jnp.float32)
        moments = {
            "found": found_BQ, "true": true_BQ, "found_found": jnp.square(found_BQ), "true_true": jnp.square(true_BQ),
            "found_true": found_BQ * true_BQ,
        }  # fmt: skip
        squared_BQ = jnp.square(found_BQ - true_BQ)
        scale = seen.config.class_heads[head_number(term)].scale
        return {
            "loss": total(squared_BQ, weight_BQ),
            "weight": jnp.sum(weight_BQ),
            "count": jnp.sum(counted_BQ),
            "squared": scale**2 * total(squared_BQ, counted_BQ),
            **{name: total(moment_BQ, counted_BQ) for name, moment_BQ in moments.items()},
        }

    def score(self, sums: Mapping[str, Any]) -> float:
        return float(sums["squared"] / sums["count"])

    def baseline(self, term: Term, batches: Sequence[Batch], task: "Task", corpus: "Corpus") -> tuple[str, float]:
        """The mean of what was learnt from, which is 0 once it is standardised."""
        counted = joined([self.weights(batch, term) for batch in batches]) > 0
        value = joined([self.targets(batch, term) for batch in batches])[counted]
        return "always says the mean", float(np.square(value.astype(np.float64)).mean()) * term.scale**2

    def details(self, term: Term, sums: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
        """R2 and the linear correlation; no number where either does not vary."""
        n = float(sums["count"])
        found, true = float(sums["found"]) / n, float(sums["true"]) / n
        of_found, of_true = float(sums["found_found"]) / n - found**2, float(sums["true_true"]) / n - true**2
        together = float(sums["found_true"]) / n - found * true
        error = of_found + of_true - 2 * together + (found - true) ** 2
        return {
            "r2": 1 - error / of_true if of_true > 1e-12 else math.nan,
            "pearson": together / (of_found * of_true) ** 0.5 if min(of_found, of_true) > 1e-12 else math.nan,
        }
