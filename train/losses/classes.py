"""The loss of segments that belong to classes: -log p of the class, by a head that reads the state at one place.

Axes: B batch  Q places that are looked at  C classes of a head.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gptjax.batch import Batch
from gptjax.config import ModelConfig
from gptjax.nn.class_heads import class_logits, class_nll, states_at
from train.losses.accuracy import Classified
from train.losses.loss import Matrix, Seen, Sums
from train.objectives import Term


class Classes(Classified):
    """What a segment is."""

    def read(self, seen: Seen) -> Float[Array, "B Q D"]:
        """What the heads are given: the hidden state at each target's place."""
        return states_at(seen.hidden_BTD, seen.batch.at_BQ)

    def targets(self, batch: Batch, term: Term) -> Array:
        return batch.label_BQ

    def losses(self, seen: Seen, terms: Sequence[Term]) -> list[Float[Array, "B Q"]]:
        return [class_nll(logits_BQC, seen.batch.label_BQ) for logits_BQC in self._logits(seen, terms)]

    def answers(self, seen: Seen, terms: Sequence[Term]) -> list[tuple[Float[Array, "B Q"], Int[Array, "B Q"]]]:
        return [
            (class_nll(logits_BQC, seen.batch.label_BQ), jnp.argmax(logits_BQC, axis=-1))
            for logits_BQC in self._logits(seen, terms)
        ]

    def _logits(self, seen: Seen, terms: Sequence[Term]) -> list[Float[Array, "B Q C"]]:
        read_BQD = self.read(seen)
        return [class_logits(seen.params, seen.config, read_BQD, _number(term)) for term in terms]

    def sums_of(self, seen: Seen, term: Term, nll_BQ: Array, argmax_BQ: Array) -> Sums:
        """And a confusion matrix: targets by class and answer."""
        count = len(seen.config.class_heads[_number(term)].classes)
        label_BQ, weight_BQ = self.targets(seen.batch, term), self.weights(seen.batch, term)
        label_BQC, argmax_BQC = (jax.nn.one_hot(ids, count) for ids in (label_BQ, argmax_BQ))
        confusion_CC = jnp.einsum("BQ,BQC,BQc->Cc", weight_BQ, label_BQC, argmax_BQC)
        return super().sums_of(seen, term, nll_BQ, argmax_BQ) | {"confusion": confusion_CC}

    def details(self, term: Term, sums: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
        confusion = np.round(sums["confusion"]).astype(int).tolist()
        return {"confusion": confusion, "classes": config.class_heads[_number(term)].classes}

    def pictures(self, term: str, record: Mapping[str, Any]) -> list[Matrix]:
        if not record.get("confusion"):
            return []
        return [Matrix(f"{term}: what is taken for what", np.array(record["confusion"]), list(record["classes"]))]


def _number(term: Term) -> int:
    assert term.head is not None  # of a segment there is nothing but what its own head tells
    return term.head
